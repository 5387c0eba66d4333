"""Trusted and pure: what an auditor or a client needs to verify the ledger."""
