"""The endpoints of `/gov`: what members and everybody else read of governance, and what members' signed requests do to it."""
