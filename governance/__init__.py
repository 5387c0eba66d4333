"""Trusted and pure: the members' rules and the tables that hold them."""
