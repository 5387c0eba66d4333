"""Trusted and sans-IO: decides everything. Only `enclave.runtime` touches the world."""
