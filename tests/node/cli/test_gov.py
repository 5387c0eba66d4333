"""`ledgerd gov`, against a fake node whose `/gov` is the enclave's own."""

import threading
from pathlib import Path
from typing import Any

import pytest

from ledgerd.governance import tables
from ledgerd.ledger.signature import SIGNATURES
from support.cluster import BY_VOTE, SANDBOX
from support.command_line import Ledgerd
from support.executing import USER
from support.fake_service import FakeAnswer, FakeRequest, FakeService
from support.governed import ALICE, CAROL, DIGEST, Governed, id_of
from support.members import files

PROPOSAL, OTHER = "0a" * 32, "5b" * 32


class Gov:
    """A node's `/gov`, which says that all is committed."""

    def __init__(self) -> None:
        self.node = Governed()
        self.sign(DIGEST)
        self.lock = threading.Lock()

    def sign(self, root: str) -> None:
        """A signature entry over another state."""
        self.node.put({SIGNATURES: {tables.SINGLETON: tables.encode({"root": root})}})

    def __call__(self, request: FakeRequest) -> FakeAnswer | None:
        if not request.path.startswith("/gov/"):
            return None
        with self.lock:
            response = self.node.answer(request.method, request.path, request.body, caller="", headers=request.headers)
        headers = {**dict(response.headers), "x-ms-ccf-transaction-id": "2.7", "preference-applied": "committed"}
        return FakeAnswer(response.status, headers, response.body)


@pytest.fixture
def gov(service: FakeService) -> Gov:
    gov = Gov()
    service.nodes[0].behaviour = gov
    return gov


def propose(gov: Gov, state: str = "Open") -> None:
    info = {"proposer_id": id_of(ALICE), "state": state, "ballots": {id_of(ALICE): "x"}}
    gov.node.put({tables.PROPOSALS: {PROPOSAL.encode(): b"{}"}, tables.PROPOSALS_INFO: {PROPOSAL.encode(): tables.encode(info)}})


# Reading.


def test_members_are_listed(ledgerd: Ledgerd, gov: Gov, options: list[object]) -> None:
    ran = ledgerd("gov", "members", "-o", "json", *options)
    assert (ran.status, ran.json["schema"]) == (0, "ledgerd.gov_members.v1")
    found = {item["member_id"]: item for item in ran.json["items"]}
    assert found[id_of(CAROL)] == {
        "member_id": id_of(CAROL),
        "status": "Accepted",
        "recovery_role": "NonParticipant",
        "member_data": "carol",
        "certificate": CAROL.pem,
        "public_encryption_key": None,
    }
    lines = [line.split("\t") for line in ledgerd("gov", "members", *options).out.splitlines()]
    assert lines[0] == ["member_id", "status", "recovery_role", "member_data"]
    assert [id_of(CAROL), "Accepted", "NonParticipant", "carol"] in lines


def test_users_are_listed(ledgerd: Ledgerd, gov: Gov, options: list[object]) -> None:
    ran = ledgerd("gov", "users", "-o", "json", *options)
    assert ran.json["items"][0] == {"user_id": USER, "user_data": {"role": "clerk"}, "certificate": "PEM"}
    lines = ledgerd("gov", "users", *options).out.splitlines()
    assert lines[:2] == ["user_id\tuser_data", f'{USER}\t{{"role": "clerk"}}']


def test_the_service_is_shown(ledgerd: Ledgerd, gov: Gov, options: list[object]) -> None:
    record = {"cert": "PEM", "status": "Open", "current_service_create_txid": "2.1", "recovery_count": 0, "service_data": None}
    gov.node.put(
        {
            tables.SERVICE_INFO: {tables.SINGLETON: tables.encode(record)},
            tables.SERVICE_CONFIG: {tables.SINGLETON: b'{"recovery_threshold":2}'},
        }
    )
    ran = ledgerd("gov", "service", "-o", "json", *options)
    assert ran.json == {
        "schema": "ledgerd.gov_service.v1",
        "status": "Open",
        "created_by": "2.1",
        "recovery_count": 0,
        "service_data": None,
        "recovery_threshold": 2,
        "node_certificate_days": 365,
        "service_certificate_days": 365,
        "recent_proposals": 100,
        "certificate": "PEM",
    }


def test_the_policy_is_listed_line_by_line(ledgerd: Ledgerd, gov: Gov, options: list[object]) -> None:
    image = tables.measurement_key(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48)
    gov.node.put(
        {
            tables.NITRO_MEASUREMENTS: {image: tables.ALLOWED_TO_JOIN},
            tables.NITRO_ROOTS: {b"ab": b"PEM"},
            tables.SNP_MEASUREMENTS: {b"cd": tables.ALLOWED_TO_JOIN},
            tables.SNP_HOST_DATA: {b"ef": b'""'},
            tables.SNP_UVM_ENDORSEMENTS: {b"did": b'{"feed":{"svn":"1"}}'},
            tables.SNP_TCB_VERSIONS: {b"00a00f11": b'{"snp":24}'},
        }
    )
    assert ledgerd("gov", "policy", *options).out.splitlines() == [
        "platform\twhat\taccepted",
        f"nitro\timage\t{image.decode()}",
        "nitro\troot\tab",
        "snp\tmeasurement\tcd",
        "snp\thost data\tef",
        "snp\tUVM endorsement\tdid",
        "snp\tfirmware\t00a00f11",
    ]
    items = ledgerd("gov", "policy", "-o", "json", *options).json["items"]
    assert items[1] == {"platform": "nitro", "what": "root", "accepted": "ab", "detail": "PEM"}
    assert items[5]["detail"] == {"snp": 24}


def test_the_constitution_is_printed(ledgerd: Ledgerd, gov: Gov, options: list[object]) -> None:
    gov.node.put({tables.CONSTITUTION: {tables.SINGLETON: tables.encode("export function vote() {} // ü\n")}})
    assert ledgerd("gov", "constitution", *options).out == "export function vote() {} // ü\n"
    found = ledgerd("gov", "constitution", "-o", "json", *options).json
    assert found == {"schema": "ledgerd.gov_constitution.v1", "constitution": "export function vote() {} // ü\n"}
    assert ledgerd("gov", "constitution", "--default").out == f"{BY_VOTE}"  # without a service
    assert ledgerd("gov", "constitution", "--sandbox").out == f"{SANDBOX}"


def test_proposals_are_listed(ledgerd: Ledgerd, gov: Gov, options: list[object]) -> None:
    propose(gov)
    (item,) = ledgerd("gov", "proposals", "-o", "json", *options).json["items"]
    assert (item["proposal_id"], item["state"], item["ballots"], item["proposer_id"]) == (PROPOSAL, "Open", 1, id_of(ALICE))


# Acknowledging.


def test_a_member_acknowledges_at_once(ledgerd: Ledgerd, gov: Gov, options: list[object], tmp_path: Path) -> None:
    ran = ledgerd("gov", "ack", *files(CAROL, tmp_path), *options)
    assert ran.status == 0
    assert ran.fields == {"member_id": id_of(CAROL), "state_digest": DIGEST, "acknowledged": "yes", "status": "Active"}
    assert gov.node.row(tables.MEMBER_INFO, id_of(CAROL))["status"] == "Active"


def test_a_member_asks_looks_and_acknowledges_what_it_has_seen(ledgerd: Ledgerd, gov: Gov, options: list[object], tmp_path: Path) -> None:
    signing = files(CAROL, tmp_path)
    ran = ledgerd("gov", "ack", "--ask", "-o", "json", *signing, *options)
    assert (ran.json["state_digest"], ran.json["acknowledged"], ran.json["status"]) == (DIGEST, False, "Accepted")
    assert f"ledgerd gov ack --digest {DIGEST}" in ledgerd("gov", "ack", "--ask", *signing, *options).err
    gov.sign(OTHER)
    ran = ledgerd("gov", "ack", "--digest", OTHER, "-o", "json", *signing, *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "StateMismatch")
    assert DIGEST in ran.json["error"]["message"]
    ran = ledgerd("gov", "ack", "--digest", DIGEST, "-o", "json", *signing, *options)
    assert (ran.status, ran.json["acknowledged"], ran.json["status"]) == (0, True, "Active")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ask", "--digest", DIGEST], "one of the two"),
        (["--digest", "ab"], "is no digest"),
        (["--digest", DIGEST.upper()], "is no digest"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_asked(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, words: list[str], told: str
) -> None:
    ran = ledgerd("gov", "ack", *words, *files(CAROL, tmp_path), *options)
    assert (ran.status, told in ran.err) == (2, True)
    assert service.nodes[0].requests == []


def test_who_is_no_member_is_told(ledgerd: Ledgerd, gov: Gov, options: list[object], tmp_path: Path) -> None:
    gone: dict[bytes, Any] = {id_of(CAROL).encode(): None}
    gov.node.put({tables.MEMBER_CERTS: gone, tables.MEMBER_INFO: gone})
    ran = ledgerd("gov", "ack", *files(CAROL, tmp_path), *options)
    assert ran.status == 1
    assert "401 InvalidAuthenticationInfo" in ran.err


# Withdrawing.


def test_the_proposer_withdraws(ledgerd: Ledgerd, gov: Gov, options: list[object], tmp_path: Path) -> None:
    propose(gov)
    ran = ledgerd("gov", "withdraw", PROPOSAL, *files(ALICE, tmp_path), *options)
    assert (ran.status, ran.fields["proposal_id"], ran.fields["state"]) == (0, PROPOSAL, "Withdrawn")
    assert "Withdrawn: nothing of it is done." in ran.err
    assert gov.node.row(tables.PROPOSALS_INFO, PROPOSAL)["state"] == "Withdrawn"


def test_a_proposal_is_withdrawn_by_the_first_digits_of_its_name(ledgerd: Ledgerd, gov: Gov, options: list[object], tmp_path: Path) -> None:
    propose(gov)
    ran = ledgerd("gov", "withdraw", PROPOSAL[:8], *files(ALICE, tmp_path), *options)
    assert (ran.status, ran.fields["proposal_id"], ran.fields["state"]) == (0, PROPOSAL, "Withdrawn")
    ran = ledgerd("gov", "withdraw", PROPOSAL[:8], *files(ALICE, tmp_path))
    assert (ran.status, "it has 64 lower-case hexadecimal digits" in ran.err) == (2, True)
    other = "f" * 8 if PROPOSAL[:8] != "f" * 8 else "0" * 8
    ran = ledgerd("gov", "withdraw", other, "-o", "json", *files(ALICE, tmp_path), *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NoSuchProposal")


def test_what_cannot_be_withdrawn_is_a_failure_that_says_why(ledgerd: Ledgerd, gov: Gov, options: list[object], tmp_path: Path) -> None:
    signing = files(ALICE, tmp_path)
    ran = ledgerd("gov", "withdraw", PROPOSAL, "-o", "json", *signing, *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NotWithdrawn")
    propose(gov, "Accepted")
    ran = ledgerd("gov", "withdraw", PROPOSAL, *signing, *options)
    assert (ran.status, "400 ProposalNotOpen" in ran.err) == (1, True)
    ran = ledgerd("gov", "withdraw", "0a", *signing, *options)
    assert (ran.status, "is no proposal's name" in ran.err) == (2, True)
