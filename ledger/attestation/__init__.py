"""Attestation documents: decode, verify, and judge them; needed by nodes, clients and auditors alike.

`nitro` says what a document is and that AWS (or a stated root) made it; `policy` says whether that is good enough, by two calls
that cannot be confused: `verify_now` with a nonce, `verify_recorded` at the time the ledger recorded. `measurement` computes PCRs.
Not here: getting documents from the device (`enclave.nsm`), making simulated ones (`node.simulator`).
"""
