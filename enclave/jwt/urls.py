"""Issuers' names as URLs: taken apart, and compared with what tokens and key sets say.

A name is compared as it is written, byte for byte: nothing is normalised, so two names that look alike are two names.
"""

import re
from typing import Final, NamedTuple

from ledgerd.ledger.errors import FormatError

HTTPS_PORT: Final = 443
URL_LENGTH_MAX: Final = 2048
TENANT: Final = "{tenantid}"
ENTRA: Final = "login.microsoftonline.com"

_URL: Final = re.compile(r"https://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?(?P<path>/[!-~]*)?")


class Url(NamedTuple):
    """An `https` URL: lower-case host, without brackets, port, and the rest from the first slash on, query included."""

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as the header `host` has them and as operators allow them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"


def parse(text: str) -> Url:
    """Take an `https` URL apart.

    Raises: FormatError: It is none, has a fragment or a user's name, or characters that must be escaped.
    """
    match = _URL.fullmatch(text) if len(text) <= URL_LENGTH_MAX else None
    port = int(match["port"] or HTTPS_PORT) if match else 0
    if match is None or not 0 < port <= 65535 or "#" in text:
        raise FormatError(f"{text[:200]!r} is no URL that begins with https:// and names a host, without fragment")
    return Url(match["host"].strip("[]").lower(), port, match["path"] or "/")


def may_constrain(issuer: str, constraint: str) -> bool:
    """Whether a key of `issuer` may say that it signs for `constraint` only: its own host's name, or one that this ends in. CCF's rule."""
    try:
        own, other = parse(issuer).host, parse(constraint).host
    except FormatError:
        return False
    return own == other or own.endswith("." + other)


def is_issuer(iss: str, tid: str | None, constraint: str) -> bool:
    """Whether a token's `iss`, and its tenant `tid`, satisfy a key's constraint. CCF's rule.

    They are equal and there is no tenant. But for Microsoft Entra's host: there must be a tenant, which stands for `{tenantid}`, and
    which the first segment of the path has to name.
    """
    try:
        host = parse(constraint).host
    except FormatError:
        host = ""
    if host != ENTRA:
        return iss == constraint and tid is None
    if tid is None or TENANT in iss or iss != constraint.replace(TENANT, tid, 1):
        return False
    try:
        path = parse(iss).path
    except FormatError:
        return False
    return bool(tid) and next((segment for segment in path.split("/") if segment), None) == tid
