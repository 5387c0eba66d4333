"""Untrusted: bytes in, bytes out; and the client SDK."""
