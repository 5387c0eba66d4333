"""All I/O of the enclave process: link, clock, threads, NSM device. Nothing else in the enclave imports it.

The one room of the enclave that may touch sockets, time and the operating system; it decides nothing: `enclave.core` does.
"""
