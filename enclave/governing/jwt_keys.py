"""What the constitution calls to change which tokens count: `ccf.setJwtPublicSigningKeys` and `ccf.removeJwtPublicSigningKeys`.

They write what CCF's write, through the running transaction, so that a proposal that fails afterwards leaves nothing behind.
Not here: the actions (`governance.constitution`), the refresh that the primary makes (`enclave.jwt.refresh`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.jwt import jwks
from ledgerd.enclave.jwt.records import KeyRecord, changes
from ledgerd.governance import tables
from ledgerd.ledger.errors import FormatError


def set_keys(context: Context, arguments: list[Any]) -> None:
    """`setJwtPublicSigningKeys(issuer, metadata, jwks)`: the issuer has these keys, and no others any more.

    Raises: ValueError: An argument is not what it should be; the text is for whoever proposed it.
    """
    if len(arguments) != 3:
        raise ValueError("setJwtPublicSigningKeys takes an issuer, its metadata and a JWKS")
    issuer, _, jwk_set = arguments
    try:
        _write(context, issuer, jwks.read(jwk_set, _name(issuer)))
    except FormatError as error:
        raise ValueError(f"setJwtPublicSigningKeys: {error}") from None


def remove_keys(context: Context, arguments: list[Any]) -> None:
    """`removeJwtPublicSigningKeys(issuer)`: the issuer has no keys any more.

    Raises: ValueError: The argument is no issuer's name.
    """
    if len(arguments) != 1:
        raise ValueError("removeJwtPublicSigningKeys takes an issuer")
    _write(context, _name(arguments[0]), {})


CALLS: Final[Mapping[str, Callable[[Context, list[Any]], Any]]] = {
    "setJwtPublicSigningKeys": set_keys,
    "removeJwtPublicSigningKeys": remove_keys,
}
"""By name below `ccf.`."""


def _name(issuer: Any) -> str:
    if type(issuer) is not str or not issuer:
        raise ValueError("an issuer's name is a string that is not empty")
    return issuer


def _write(context: Context, issuer: str, keys: Mapping[str, KeyRecord]) -> None:
    table = context.kv[tables.JWT_KEYS]
    for key, value in changes(table.items(), issuer, keys).items():
        if value is None:
            table.delete(key)
        else:
            table.set(key, value)
