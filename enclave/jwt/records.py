"""The table of issuers' keys, `public:ccf.gov.jwt.public_signing_keys_metadata_v2`: by key id a list of keys, as CCF writes it.

Several issuers may use one key id, but an issuer only once. What this module computes are changes, so whoever writes them, a proposal or
the primary after a refresh, writes only what is new.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ledgerd.governance import tables
from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.signature import decode_base64

KEY_ID_LENGTH_MAX: Final = 256


class KeyRecord(NamedTuple):
    """One key.

    Attributes:
        public_key: DER SubjectPublicKeyInfo.
        issuer: Whose it is, by the name that governance knows.
        constraint: What `iss` of its tokens must be; None for anything.
    """

    public_key: bytes
    issuer: str
    constraint: str | None


def read_records(row: bytes) -> Iterator[KeyRecord]:
    """The keys in a row; what is none, a constitution of another making may have written it, is left out."""
    for record in _rows(row):
        try:
            public_key = decode_base64(record.get("public_key"), "public key")
        except FormatError:
            continue
        issuer, constraint = record.get("issuer"), record.get("constraint")
        if type(issuer) is str and (constraint is None or type(constraint) is str):
            yield KeyRecord(public_key, issuer, constraint)


def changes(rows: Iterable[tuple[bytes, bytes]], issuer: str, keys: Mapping[str, KeyRecord]) -> dict[bytes, bytes | None]:
    """What has to be written so that an issuer has exactly these keys.

    Args:
        rows: All of the table as it is.
        keys: By key id; none to remove the issuer.
    Returns: New values by key of the table, None for rows to be deleted; empty if all is so already.
    """
    wanted = {key_id.encode(): _shown(record) for key_id, record in keys.items()}
    found: dict[bytes, bytes | None] = {}
    present = dict(rows)
    for key in [*present, *(key for key in wanted if key not in present)]:
        before = _rows(present[key]) if key in present else []
        record = wanted.get(key)
        after = []
        for known in before:
            if known.get("issuer") != issuer:
                after.append(known)
            elif record is not None:
                after.append(record)
                record = None
        if record is not None:
            after.append(record)
        if after != before:
            found[key] = tables.encode(after) if after else None
    return found


def _shown(record: KeyRecord) -> dict[str, Any]:
    constraint = {} if record.constraint is None else {"constraint": record.constraint}
    return {**constraint, "issuer": record.issuer, "public_key": base64.b64encode(record.public_key).decode()}


def _rows(row: bytes) -> list[dict[str, Any]]:
    try:
        records = tables.decode(row)
    except (ValueError, RecursionError):
        return []
    return [record for record in records if type(record) is dict] if type(records) is list else []
