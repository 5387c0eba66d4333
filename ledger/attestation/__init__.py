"""Attestation evidence: decode, verify, and judge it; needed by nodes, clients and auditors alike.

`evidence` is the door for every platform, and says what they have in common. For each there is a module that says what evidence is and
that AWS or AMD (or a stated root) made it, and one that says whether that is good enough: `nitro` and `policy`, `snp` and `snp_policy`
(with `uvm`, who vouches for a guest). Both have two calls that cannot be confused: `verify_now` with a nonce, `verify_recorded` at the
time that the ledger recorded. Below them, `items` reads CBOR, `certificates` X.509, `measurement` computes PCRs.
Not here: getting evidence from the device (`enclave.nsm`), making simulated documents (`node.simulator`).
"""
