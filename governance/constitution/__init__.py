"""The constitution that a service starts with unless its members bring another one: JavaScript text, in files of one purpose each.

This module only says which files make it, in which order; whoever starts a service reads and joins them, and the text goes into the genesis
as any other constitution would. Nothing in Python knows what is in it.
Not here: the engine, and when which function is called (`enclave`). For members: docs/governance.md.
"""

from collections.abc import Callable
from typing import Final

# Definitions first, then the actions that use them, then the three functions that the service calls.
_ACTIONS: Final = (
    "arguments.js",
    "tables.js",
    "times.js",
    "actions.js",
    "members.js",
    "users.js",
    "service.js",
    "certificates.js",
    "nodes.js",
    "join_policy.js",
    "application.js",
    "tokens.js",
    "policy.js",
)

BY_VOTE: Final = (*_ACTIONS, "proposals.js", "rules.js")
"""What is proposed is accepted when more than half of the active members say yes."""

SANDBOX: Final = (*_ACTIONS, "proposals.js", "sandbox/rules.js")
"""For development: what one member proposes is accepted at once."""


def join(files: tuple[str, ...], read: Callable[[str], str]) -> str:
    """The text of a constitution.

    Args:
        files: `BY_VOTE` or `SANDBOX`.
        read: Returns the text of one of these files, which lie beside this module.
    """
    return "\n".join(read(name) for name in files)
