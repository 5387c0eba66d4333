"""ledgerd: a confidential ledger run by parties who do not trust each other.

No code lives here: the packages below are links to the folders at the top of the repository.
"""
