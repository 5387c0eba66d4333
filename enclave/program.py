"""Which version of the program this is, and whether members still let it join.

Law: what a joiner says of its version is bound by its attestation document, and only images that members allow are believed at all, so an
old image cannot pass for a new one. The floor is the members' (`set_minimum_version`), and only rises: it forbids every image below it,
whatever the table of measurements still lists.
"""

import re
from typing import Final

from ledgerd.governance import tables
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.errors import ConfigurationError

VERSION: Final = "0.1.0"
QUICKJS: Final = "quickjs-ng 0.17.0"  # the engine that runs scripts (`enclave.runtime.quickjs`)

_is_version: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8})){2}", re.ASCII).fullmatch


def is_version(text: object) -> bool:
    """Whether it is three numbers with dots between them, without leading zeros."""
    return type(text) is str and _is_version(text) is not None


def check_version(version: str, record: bytes | None) -> None:
    """Refuse a joiner below the members' floor.

    Args:
        version: The joiner's, well-formed.
        record: Of `tables.MINIMUM_VERSION`; None where members have set none.
    Raises:
        AttestationError: rule `version`, it is too old.
        ConfigurationError: The record cannot be read.
    """
    if record is None:
        return
    try:
        floor = tables.decode(record)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        floor = None
    if not is_version(floor):
        raise ConfigurationError(f"the record of {tables.MINIMUM_VERSION} holds no version")
    if _numbers(version) < _numbers(floor):
        raise AttestationError("version", f"ledgerd {version}", f"{floor} or later, as the members say", "join with a newer image")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
