"""Example applications; they import `ledgerd.enclave.app` only."""
