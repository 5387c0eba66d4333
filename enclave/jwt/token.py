"""One token: three parts of base64url (RFC 7515 compact serialization), taken apart and bounded; nothing is believed of it yet.

Refusals are in CCF's words where CCF has some.
"""

from typing import Any, Final, NamedTuple

from ledgerd.enclave.jwt.keys import ALGORITHMS
from ledgerd.enclave.jwt.strict import base64url, read_object
from ledgerd.ledger.errors import FormatError

TOKEN_LENGTH_MAX: Final = 16 << 10  # as all of a request's header
NAME_LENGTH_MAX: Final = 2048  # of a key, an issuer, a subject
SECONDS_MAX: Final = (1 << 53) - 1  # what every JSON reader holds exactly


class Token(NamedTuple):
    """What a token says.

    Attributes:
        signed: What its signature is over.
        algorithm, key_id: Of its header.
        issuer, subject, tenant: `iss`, `sub` and `tid`; None where it has none.
        not_before, expires: `nbf` and `exp`, seconds since 1970.
        header, payload: JSON, as it was signed.
    """

    signed: bytes
    signature: bytes
    algorithm: str
    key_id: str
    issuer: str
    subject: str | None
    tenant: str | None
    not_before: float | None
    expires: float
    header: bytes
    payload: bytes


def extract(authorization: str | None) -> str:
    """The token in a header `authorization`.

    Raises: FormatError: There is none.
    """
    if authorization is None:
        raise FormatError("Missing authorization header")
    scheme, space, text = authorization.partition(" ")
    if not space:
        raise FormatError("Authorization header only contains one field")
    if scheme.lower() != "bearer":
        raise FormatError("Authorization header does not have Bearer scheme")
    return text


def parse(text: str) -> Token:
    """Take a token apart.

    Raises: FormatError: It is none, or one that says what nobody here understands.
    """
    if len(text) > TOKEN_LENGTH_MAX:
        raise FormatError(f"Malformed JWT: it has {len(text)} characters; at most {TOKEN_LENGTH_MAX} are read")
    parts = text.split(".")
    if len(parts) != 3:
        raise FormatError("Malformed JWT: must contain exactly 3 parts")
    header_data, payload_data, signature = (base64url(part, f"Malformed JWT: {name}") for name, part in zip(_PARTS, parts, strict=True))
    header = read_object(header_data, "JWT header")
    payload = read_object(payload_data, "JWT payload")
    algorithm = _field(header, "alg", "JWT header does not follow schema")
    if algorithm not in ALGORITHMS:
        raise FormatError(f"JWT header does not follow schema: alg is {algorithm[:64]!r}; it must be one of {', '.join(ALGORITHMS)}")
    if "crit" in header:
        raise FormatError("JWT header does not follow schema: crit asks for extensions, of which none is known here")
    return Token(
        signed=text[: text.rindex(".")].encode(),
        signature=signature,
        algorithm=algorithm,
        key_id=_field(header, "kid", "JWT header does not follow schema"),
        issuer=_field(payload, "iss", "JWT payload is missing required field"),
        subject=_optional(payload, "sub"),
        tenant=_optional(payload, "tid"),
        not_before=_seconds(payload, "nbf") if "nbf" in payload else None,
        expires=_seconds(payload, "exp"),
        header=header_data,
        payload=payload_data,
    )


_PARTS: Final = ("the header", "the payload", "the signature")


def _field(record: dict[str, Any], name: str, what: str) -> str:
    value = record.get(name)
    if type(value) is not str or len(value) > NAME_LENGTH_MAX:
        raise FormatError(f"{what}: {name} must be a string of at most {NAME_LENGTH_MAX} characters")
    return value


def _optional(payload: dict[str, Any], name: str) -> str | None:
    return _field(payload, name, "JWT payload does not follow schema") if name in payload else None


def _seconds(payload: dict[str, Any], name: str) -> float:
    value = payload.get(name)
    if type(value) not in (int, float) or not 0 <= value <= SECONDS_MAX:  # type: ignore[operator]  # a number, then
        raise FormatError(f"JWT payload is missing required field: {name} must be a number of seconds since 1970")
    return value  # type: ignore[return-value]
