"""The untrusted host: disk, sockets, launchers, command line; the composition root."""
