"""What members say to their service: signed requests in COSE, and proposals in JSON."""

import json
from typing import Final

from ledgerd.governance import actions, requests, tables
from ledgerd.ledger.errors import FormatError, IntegrityError
from support.cluster import make_identity
from support.fuzzing.laws import BrokenLaw, Maker, Target

_PROPOSAL: Final = json.dumps(
    {
        "actions": [
            {"name": "remove_node", "args": {"node_id": "ab" * 32}},
            {
                "name": "transition_node_to_trusted",
                "args": {"node_id": "cd" * 32, "valid_from": "20261231235959Z", "validity_period_days": 90},
            },
        ]
    }
).encode()


def _governance_request() -> Target:
    """A request that a member signed, as anybody may hand it over, or over again."""
    member = make_identity("member0")
    seeds = [
        requests.sign(member.key, member.certificate, "proposal", _PROPOSAL, created_at=1_790_000_000),
        requests.sign(member.key, member.certificate, "ballot", b"{}", created_at=1_790_000_001, proposal_id="ab" * 32),
    ]
    genuine = [requests.read(seed) for seed in seeds]
    said = {(each.message.protected_bytes, each.payload) for each in genuine}
    keys = {each.replay_key for each in genuine}

    def judge(data: bytes) -> bool:
        try:
            request = requests.read(data)
            requests.verify(request, member.certificate)
        except (FormatError, IntegrityError):
            return False
        if (request.message.protected_bytes, request.payload) not in said:
            raise BrokenLaw("what nobody signed is a member's word")
        if request.replay_key not in keys:
            raise BrokenLaw("the same words pass for new ones")
        return True

    bombs = [
        b"\xd2\x84" + b"\x81" * 100_000,
        b"\xd2\x84\x9f" + b"\x5f" * 50_000,
        b"\xd2\x84\x5b" + b"\xff" * 8,
        b"\xd2\x84\x41\xa0\xbf" + b"\x00\x00" * 50_000,
    ]
    tokens = [b"ccf.gov.msg.type", b"ccf.gov.msg.created_at", b"\x5f", b"\xff", b"\xbf", b"\x68proposal"]
    return Target("governance-request", seeds, judge, bombs=bombs, tokens=tokens)


def _proposal() -> Target:
    """What such a request proposes."""

    def judge(data: bytes) -> bool:
        try:
            wanted = actions.read(data)
        except FormatError:
            return False
        again = actions.read(actions.write(wanted))
        if [(action.name, action.node_id, action.days) for action in again] != [
            (action.name, action.node_id, action.days) for action in wanted
        ]:
            raise BrokenLaw("a proposal is read otherwise when it is written again")
        return True

    tokens = [
        b'"0001-01-01T00:00:00+23:59"',
        b'"9999-12-31"',
        b'"2026-12-31T23:59:59.5"',
        b"1e9",
        b"null",
        b'"\\ud800"',
        b'"991231235959Z"',
        b"true",
    ]
    bombs = [b"[" * 100_000, b'{"actions": [' + b"{}," * 200_000 + b"{}]}", b'{"actions": ' + b'{"a":' * 100_000]
    return Target("proposal", [_PROPOSAL], judge, tokens=tokens, bombs=bombs)


def _signed_field() -> Target:
    """What a member says in a vote or an acknowledgement: one text in a JSON object, which the ledger then keeps."""

    def judge(data: bytes) -> bool:
        try:
            said = requests.field_of(data, "ballot")
        except FormatError:
            return False
        if requests.field_of(tables.encode({"ballot": said}), "ballot") != said:
            raise BrokenLaw("what was said is read otherwise when it is written again")
        if json.loads(data)["ballot"] != said:
            raise BrokenLaw("another reader reads something else")
        return True

    seeds = [
        b'{"ballot":"export function vote(rawProposal, proposerId) { return true; }"}',
        '{"a":[{}],"ballot":"\\u00fc\\ud83d\\ude00 ü"}'.encode(),
    ]
    tokens = [b"\\ud800", b'"ballot":', b"\xff", b"\xef\xbb\xbf", b"null", b"1e999", b"\x00"]
    bombs = [b"[" * 100_000, b'{"ballot":' + b'{"a":' * 100_000, b'{"ballot":"' + b"a" * 1_000_000 + b'"}', b"9" * 100_000]
    return Target("signed-field", seeds, judge, tokens=tokens, bombs=bombs)


MAKERS: Final[dict[str, Maker]] = {
    "governance-request": _governance_request,
    "proposal": _proposal,
    "signed-field": _signed_field,
}
