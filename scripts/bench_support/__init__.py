"""What `scripts/bench` and `scripts/memory` are made of: services to load, loads to run, figures to print.

Developer tools only: nothing of the product imports this folder, and of the product it imports only the SDK, as any client would.
"""
