"""Governance replayed from a ledger, offline: what every entry of it rests on, by the very code that the enclave runs.

For auditors, on machines of their own: no key is needed, and none is there. Pure, but for scripts, which a driver runs in workers.
Law: an entry that changes what governs the service is one of a closed list, and follows from the entries before it; or the audit ends.
Not here: signatures of the service and its nodes over the ledger (`ledger.audit`), evidence of nodes (`governance.attested_nodes`).
"""
