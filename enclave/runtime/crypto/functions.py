"""Which functions there are, and one way to call them.

Their modules are imported when one of them is called: what they need of others takes longer to import than most scripts run.
Law: whatever a script gives, a call ends with a value or with a RefusalError.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ledgerd.enclave.runtime.crypto.arguments import Function, Kind, RefusalError, Surroundings


class Row(NamedTuple):
    """Where a function is, and how many arguments it takes."""

    module: str
    least: int
    most: int


FUNCTIONS: Final[Mapping[str, Row]] = {
    "digest": Row("digests", 2, 2),
    "sign": Row("signatures", 3, 3),
    "verifySignature": Row("signatures", 4, 4),
    "generateAesKey": Row("keys", 1, 1),
    "generateRsaKeyPair": Row("keys", 1, 2),
    "generateEcdsaKeyPair": Row("keys", 1, 1),
    "generateEddsaKeyPair": Row("keys", 1, 1),
    "wrapKey": Row("wrapping", 3, 3),
    "unwrapKey": Row("wrapping", 3, 3),
    "pubPemToJwk": Row("jwk", 1, 2),
    "pemToJwk": Row("jwk", 1, 2),
    "pubRsaPemToJwk": Row("jwk", 1, 2),
    "rsaPemToJwk": Row("jwk", 1, 2),
    "pubEddsaPemToJwk": Row("jwk", 1, 2),
    "eddsaPemToJwk": Row("jwk", 1, 2),
    "pubJwkToPem": Row("jwk", 1, 1),
    "jwkToPem": Row("jwk", 1, 1),
    "pubRsaJwkToPem": Row("jwk", 1, 1),
    "rsaJwkToPem": Row("jwk", 1, 1),
    "pubEddsaJwkToPem": Row("jwk", 1, 1),
    "eddsaJwkToPem": Row("jwk", 1, 1),
    "isValidX509CertBundle": Row("certificates", 1, 1),
    "isValidX509CertChain": Row("certificates", 2, 2),
    "pemToId": Row("certificates", 1, 1),
    "verifySnpAttestation": Row("attestation", 2, 4),
    "tcbHexToPolicy": Row("attestation", 2, 2),
}


def is_loaded(name: str) -> bool:
    """Say whether a call of this function needs nothing to be imported first."""
    row = FUNCTIONS.get(name)
    return row is None or _path(row) in sys.modules


def load(name: str) -> None:
    """Import what a function needs."""
    importlib.import_module(_path(FUNCTIONS[name]))


def call(name: str, arguments: list[Any], where: Surroundings) -> Any:
    """Call a function by the name that scripts know.

    Returns: bool, a number, str, bytes, or a dict of these and of dicts.
    Raises: RefusalError: As the script is to be told.
    """
    row = FUNCTIONS.get(name)
    if row is None:
        raise RefusalError(f"there is no function {name[:64]}", Kind.TYPE)
    if not row.least <= len(arguments) <= row.most:
        between = "or" if row.most == row.least + 1 else "to"
        expected = str(row.least) if row.least == row.most else f"{row.least} {between} {row.most}"
        raise RefusalError(f"Passed {len(arguments)} arguments, but expected {expected}", Kind.TYPE)
    try:
        functions: Mapping[str, Function] = importlib.import_module(_path(row)).FUNCTIONS
        return functions[name](where, *arguments)
    except RefusalError:
        raise
    except BaseException as error:  # a panic in the library is no Exception
        raise RefusalError(f"{name} failed: {type(error).__name__}") from None


def _path(row: Row) -> str:
    return f"{__package__}.{row.module}"
