"""Untrusted JavaScript, as the enclave sees it: jobs for worker processes that hold no keys, and answers to what scripts ask of the maps.

Sans-IO. Not here: the processes and their sockets (`enclave.runtime.script_pool`), the engine (`enclave.runtime.script_worker`), which
scripts are run for what (proposals, ballots, applications).
"""
