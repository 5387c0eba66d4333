"""Whether the bearer of a token may be believed: its signature by a key of the tables, its dates by attested time, its issuer.

Law: the tables decide at every request, so a key that governance or a refresh has removed counts no more from the next request on. What is
kept between requests is what a row of the table makes of a token, never that it counts.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ledgerd.enclave.jwt import keys
from ledgerd.enclave.jwt.records import KeyRecord, read_records
from ledgerd.enclave.jwt.token import Token, extract, parse
from ledgerd.enclave.jwt.urls import is_issuer
from ledgerd.ledger.errors import FormatError, IntegrityError

VERIFIED_MAX: Final = 1000  # tokens remembered; only such as some issuer of ours has signed
VERIFIED_LENGTH_MAX: Final = 4096  # of one that is remembered; longer ones are verified each time
SHOWN_LENGTH_MAX: Final = 256  # of a caller's words in a refusal


class Bearer(NamedTuple):
    """Who bears a token that counts.

    Attributes:
        id: Hex SHA-256 of issuer and subject: the same for every token of one subject. Without a subject, of the token itself.
        key_issuer: Under whose name the key is in the tables. Not what the token says, which is in its payload.
        token: What it says.
    """

    id: str
    key_issuer: str
    token: Token

    def shown(self) -> dict[str, Any]:
        """As applications see it: `keyIssuer`, and header and payload as JSON values, made anew at each call."""
        return {"keyIssuer": self.key_issuer, "header": json.loads(self.token.header), "payload": json.loads(self.token.payload)}


class Known(NamedTuple):
    """What is remembered of a token whose signature was verified.

    Attributes:
        row: Of the table, by which it was; another one, and all is to be judged again.
        verdict: Who bears it while its dates allow, or why its issuer is not believed. Neither depends on the time.
    """

    token: Token
    row: bytes
    verdict: "Bearer | str"


class Verified:
    """Tokens that were verified. Bounded: the oldest leave."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def find(self, text: str) -> Known | None:
        """What is known of a token."""
        return self._known.get(text)

    def add(self, text: str, known: Known) -> None:
        """Remember it."""
        if len(text) > VERIFIED_LENGTH_MAX:
            return
        self._known.pop(text, None)
        if len(self._known) >= VERIFIED_MAX:
            del self._known[next(iter(self._known))]
        self._known[text] = known


def authenticate(authorization: str | None, verified: Verified, row_of: Callable[[bytes], bytes | None], now_s: int) -> Bearer | str:
    """Judge the header `authorization` of a request.

    Args:
        verified: What is known from earlier requests.
        row_of: Reads the table of keys by key id.
        now_s: Attested time, seconds since 1970; 0 while nobody knows it. No slack is given: the clock is not the host's to set.
    Returns: The bearer, or why there is none.
    """
    try:
        text = extract(authorization)
        known = verified.find(text)
        token = parse(text) if known is None else known.token
    except FormatError as error:
        return str(error)
    row = row_of(token.key_id.encode())
    if row is None:
        return f"JWT signing key not found for kid {token.key_id[:SHOWN_LENGTH_MAX]}"
    if known is None or known.row != row:
        signers = [record for record in _records(row) if _has_signed(record, token)]
        if not signers:
            return "Signature verification failed"
        known = Known(token, row, _judge(signers, token))
        verified.add(text, known)
    if not now_s:
        return "The current time is not known"  # of 1970 no token would have expired
    if token.not_before is not None and now_s < token.not_before:
        return f"Current time {now_s} is before token's Not Before (nbf) claim {token.not_before:.0f}"
    if now_s >= token.expires:
        return f"Current time {now_s} is after token's Expiration Time (exp) claim {token.expires:.0f}"
    return known.verdict


def _judge(signers: list[KeyRecord], token: Token) -> Bearer | str:
    for record in signers:
        if record.constraint is None or is_issuer(token.issuer, token.tenant, record.constraint):
            return Bearer(_id_of(record.issuer, token), record.issuer, token)
    return f"Kid {token.key_id[:SHOWN_LENGTH_MAX]} failed issuer constraint validation {signers[-1].constraint}"


def _has_signed(record: KeyRecord, token: Token) -> bool:
    try:
        keys.verify(keys.from_der(record.public_key), token.algorithm, token.signature, token.signed)
    except (FormatError, IntegrityError):
        return False
    return True


@lru_cache(maxsize=64)
def _records(row: bytes) -> tuple[KeyRecord, ...]:
    return tuple(read_records(row))


def _id_of(key_issuer: str, token: Token) -> str:
    """Not of the signature, since of an ECDSA signature anybody can make a second one."""
    if token.subject is None:
        return sha256(b"jwt of nobody\0" + token.signed).hexdigest()
    return sha256(b"jwt\0" + json.dumps([key_issuer, token.issuer, token.tenant, token.subject]).encode()).hexdigest()
