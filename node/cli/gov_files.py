"""Reads files that a member names: bounded, as if a stranger had written them, and JSON as strictly as the service reads it."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError, FormatError

DEPTH_MAX: Final = 64  # of JSON
FILE_BYTES_MAX: Final = 64 << 20  # the largest body that a service can be made to take


def read_bytes(name: str, limit: int = FILE_BYTES_MAX) -> bytes:
    """A file's bytes; `-` is standard input. Raises: ConfigurationError: It cannot be read, or is too large."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limit:
        raise ConfigurationError(f"{name} has more than {limit} bytes, which is too much for what is asked")
    return data


def read_text(name: str, limit: int = FILE_BYTES_MAX) -> str:
    """A file's text. Raises: ConfigurationError: As `read_bytes`, or it is not UTF-8."""
    try:
        return read_bytes(name, limit).decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name} is no text: byte {error.start} is not UTF-8") from None


def parse_json(text: str | bytes, what: str) -> Any:
    """Read JSON as strictly as the service does.

    Raises: ConfigurationError: It is none, or names something twice, which two readers would read differently.
    """
    from ledgerd.ledger.signature import unique  # noqa: PLC0415

    try:
        found = json.loads(text, object_pairs_hook=unique, parse_constant=_refuse_constant)
        if is_shallow(found):
            return found
    except RecursionError:
        pass
    except (ValueError, FormatError) as error:
        raise ConfigurationError(f"{what} is no JSON: {error}") from None
    raise ConfigurationError(f"{what} is nested too deeply: at most {DEPTH_MAX} levels")


def is_shallow(value: Any) -> bool:
    """Whether it can be taken apart level by level, and written again, whoever made it."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [one for held in level for one in (held.values() if isinstance(held, dict) else held if isinstance(held, list) else ())]
        if not level:
            return True
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
