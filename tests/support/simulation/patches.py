"""Attributes changed for a while: stand-ins and planted bugs, both of tests only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Change = tuple[Any, str, Any]
"""A module or class, the name of an attribute, and what stands there instead."""


@contextmanager
def patched(changes: Iterable[Change]) -> Iterator[None]:
    """Make the changes until the end of the block."""
    kept: list[Change] = []
    try:
        for owner, name, value in changes:
            kept.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(kept):
            setattr(owner, name, value)
