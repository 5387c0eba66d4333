"""A primary that is cut off and goes on by itself: what it stored meanwhile is rolled back when it comes back."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from support.cluster import Cluster, Host

T = TypeVar("T")


def rolled_back(cluster: Cluster, hosts: Sequence[Host], path: str, meanwhile: Callable[[Host], T]) -> tuple[list[bytes], T]:
    """Cut the first host off, a primary, and join it again.

    Args:
        path: What is put there then, in vain.
        meanwhile: What the new primary is asked.
    Returns: What the host had stored before it was rolled back, and what `meanwhile` gave.
    """
    old, *others = hosts
    client = cluster.client(old)
    cluster.cut = lambda a, b: old in (a, b)
    client.start("PUT", path, b"never")
    cluster.run(0.05)
    fork = list(old.entries)
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in others))
    new = next(host for host in others if host.notices.get("role") == "primary")
    found = meanwhile(new)
    cluster.cut = lambda a, b: False
    cluster.until(lambda: len(old.entries) >= len(new.entries) and old.committed == new.committed)
    assert fork[-1] not in old.entries, "the entry was rolled back"
    return fork, found
