"""Records of acknowledgements: whether what a record asks for is what its request has signed."""

import base64
import json

from ledgerd.governance import acks, requests
from support.cluster import make_identity

MEMBER = make_identity("member0")
DIGEST, OTHER = "5a" * 32, "5b" * 32


def envelope(digest: str) -> bytes:
    payload = json.dumps({"stateDigest": digest}).encode()
    return requests.sign(MEMBER.key, MEMBER.certificate, requests.ACK, payload, created_at=1_800_000_000)


def test_a_digest_is_signed_once_its_own_request_stands_beside_it() -> None:
    record = acks.asked(None, DIGEST)
    assert not acks.is_signed(record)
    record = acks.signed(record, envelope(DIGEST))
    assert acks.is_signed(record)
    fresher = acks.asked(record, OTHER)
    assert fresher == {**record, "state_digest": OTHER}
    assert not acks.is_signed(fresher)


def test_a_record_of_another_form_counts_as_unsigned() -> None:
    for text in (None, "", "!", "AAAA", base64.b64encode(b"\xd2").decode()):
        assert not acks.is_signed({"state_digest": DIGEST, "cose_sign1_req": text})
