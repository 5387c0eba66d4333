"""The repository itself, as tests of its shape see it."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
COMPONENTS: Final = ("ledger", "governance", "enclave", "apps", "network", "node")
TRUSTED: Final = ("ledger", "governance", "enclave", "apps")


def modules(*components: str) -> list[Path]:
    """All Python files of these components, in a stable order."""
    return sorted(path for name in components for path in (ROOT / name).rglob("*.py"))
