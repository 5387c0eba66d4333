"""State digests: what a member signs to say that it has seen the service's state and takes part. Pure.

A member asks for the root of the ledger's tree, compares it with what it knows, and signs it. The record of both stands in
`public:ccf.gov.members.acks`, with CCF's fields, for auditors.
Not here: the endpoints (`enclave.governing.acks`), what becomes of the member.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from ledgerd.governance import requests
from ledgerd.ledger.errors import FormatError

STATE_DIGEST: Final = "stateDigest"
"""Name of the field of an `ack` that holds the digest."""


def asked(before: Mapping[str, Any] | None, digest: str) -> dict[str, Any]:
    """The record of a member that is to sign `digest`. What it signed before stays, as in CCF."""
    return {**(before or {}), "state_digest": digest}


def signed(record: Mapping[str, Any], envelope: bytes) -> dict[str, Any]:
    """The record of a member that has signed the digest in it, by this request."""
    return {"state_digest": record["state_digest"], "cose_sign1_req": base64.b64encode(envelope).decode()}


def is_signed(record: Mapping[str, Any]) -> bool:
    """Whether the digest in a record is the one that the request in it signs, and not a fresher one."""
    try:
        request = requests.read(base64.b64decode(record.get("cose_sign1_req") or ""))
        return bool(requests.field_of(request.payload, STATE_DIGEST) == record["state_digest"])
    except (FormatError, ValueError):
        return False
