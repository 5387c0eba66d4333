"""How often each row of the state tables was taken. The tables stay as they are; they only count who looks."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ledgerd.enclave.consensus import progress, roles
from support.simulation.patches import patched

TABLES = {
    "role": (roles, "ROLE_TRANSITIONS"),
    "retirement": (roles, "RETIREMENT_TRANSITIONS"),
    "flow": (progress, "FLOW_TRANSITIONS"),
}


class _Counting(dict[Any, Any]):
    def __init__(self, rows: dict[Any, Any], name: str, counts: Counter[str]) -> None:
        super().__init__(rows)
        self._names = {row: f"{name}: {row[0].name} {row[1].name}" for row in rows}
        self._counts = counts

    def get(self, key: Any, default: Any = None) -> Any:
        name = self._names.get(key)
        if name is None:
            return default
        self._counts[name] += 1
        return self[key]


def rows() -> list[str]:
    """All rows of all tables."""
    return [f"{name}: {row[0].name} {row[1].name}" for name, (module, table) in TABLES.items() for row in getattr(module, table)]


@contextmanager
def counting(counts: Counter[str]) -> Iterator[None]:
    """Count into `counts` until the end of the block."""
    with patched((module, table, _Counting(getattr(module, table), name, counts)) for name, (module, table) in TABLES.items()):
        yield
