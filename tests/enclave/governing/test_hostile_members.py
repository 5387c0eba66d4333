"""Two honest members and a hostile one, who signs whatever it likes and replays what it has seen: refused by code, and the ledger shows
nothing of it; and what its ballots do harms nothing but themselves.

Not here: what strangers send (`test_api`), hosts (`tests/hostile`), real processes whose scripts loop or eat memory
(`tests/end_to_end/test_hostile_ballots.py`).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledgerd.enclave.governing.proposing import CREATED_AHEAD_SECONDS_MAX
from ledgerd.governance import requests, tables
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.signature import TREE
from support.cluster import Identity, make_identity
from support.governed import id_of
from support.members import node_id
from support.voting import NO, YES, Consortium, code, opening, shown

BODY_BYTES_MAX = 1 << 20  # `support.cluster` configures it


@pytest.fixture(scope="module")
def consortium() -> Consortium:
    """An open service of three members. The third is hostile."""
    made = Consortium()
    made.open()
    return made


def harmless(number: int = 0) -> tuple[str, dict[str, Any]]:
    return "remove_user", {"user_id": f"{number:064x}"}


def actions(*wanted: tuple[str, Any]) -> dict[str, Any]:
    return {"actions": [{"name": name, "args": args} for name, args in wanted]}


@contextmanager
def nothing_is_written(consortium: Consortium) -> Iterator[None]:
    """But signatures: no entry that tells of anything."""
    consortium.cluster.run(0.2)
    count = len(consortium.host.entries)
    yield
    consortium.cluster.run(0.2)
    written = [read_public(data).writes for data in consortium.host.entries[count:]]
    assert [writes for writes in written if TREE not in writes] == []


def newest(consortium: Consortium) -> str:
    """A new proposal of the first member, which is open."""
    return str(shown(consortium.propose(consortium.members[0], harmless()))["proposalId"])


# Replays.


def test_a_proposal_is_taken_once_by_whichever_node(consortium: Consortium) -> None:
    joiner = consortium.cluster.join(f"n{len(consortium.cluster.hosts)}")
    consortium.cluster.until(lambda: "Pending" in [node["status"] for node in consortium.read("service/nodes")["value"]])
    consortium.cluster.run(0.2)
    assert shown(consortium.carry(("transition_node_to_trusted", {"node_id": node_id(joiner)})))["proposalState"] == "Accepted"
    consortium.cluster.until(lambda: joiner.notices.get("open") == "yes")
    consortium.cluster.run(0.5)
    envelope = consortium.sign(consortium.members[0], requests.PROPOSAL, actions(harmless()))
    assert consortium.post("proposals:create", envelope).status == 200
    with nothing_is_written(consortium):
        for host in (consortium.host, joiner):
            assert code(consortium.post("proposals:create", envelope, host)) == (400, "ProposalReplay")


def test_what_has_fallen_out_of_the_window_does_not_come_back(consortium: Consortium) -> None:
    """The hostile member fills the window by itself: what it pushes out is refused as too old, not taken again."""
    first = consortium.sign(consortium.members[0], requests.PROPOSAL, actions(harmless()))
    assert consortium.post("proposals:create", first).status == 200
    window = consortium.row(tables.SERVICE_CONFIG)["recent_cose_proposals_window_size"]
    hostile = consortium.members[2]
    for number in range(window + 1):
        answer = consortium.propose(hostile, harmless(number))
        assert answer.status == 200, "thousands of tiny proposals are entries, and no more"
    with nothing_is_written(consortium):
        assert code(consortium.post("proposals:create", first)) == (400, "ProposalCreatedTooLongAgo")
        stale = consortium.sign(hostile, requests.PROPOSAL, actions(harmless()), created_at=1)
        assert code(consortium.post("proposals:create", stale)) == (400, "ProposalCreatedTooLongAgo")


def test_a_proposal_of_the_future_is_refused(consortium: Consortium) -> None:
    """Otherwise one member could fill the window with it, and nobody else could propose until then."""
    serving: Any = consortium.host.enclave._serving
    at = serving.status.now_ms // 1000 + CREATED_AHEAD_SECONDS_MAX + 60
    with nothing_is_written(consortium):
        envelope = consortium.sign(consortium.members[2], requests.PROPOSAL, actions(harmless()), created_at=at)
        assert code(consortium.post("proposals:create", envelope)) == (400, "InvalidCreatedAt")


@pytest.fixture(scope="module")
def other_service(consortium: Consortium) -> Consortium:
    """Another service of the same three members, who have not acknowledged there yet."""
    made = Consortium(members=consortium.members, active=0)
    made.time = consortium.time + 1000
    return made


def test_votes_and_acknowledgements_of_one_service_are_worth_nothing_at_another(consortium: Consortium, other_service: Consortium) -> None:
    """A ballot and a withdrawal name a proposal, whose id rests on the root of its ledger; an acknowledgement names a root itself."""
    me, other, _ = consortium.members
    digest = shown(consortium.send(me, requests.STATE_DIGEST, f"state-digests/{id_of(me)}:update"))
    ack = consortium.sign(me, requests.ACK, {"stateDigest": digest["stateDigest"]})
    assert other_service.send(me, requests.STATE_DIGEST, f"state-digests/{id_of(me)}:update").status == 200
    with nothing_is_written(other_service):
        assert code(other_service.post(f"state-digests/{id_of(me)}:ack", ack)) == (400, "StateDigestMismatch")
    for member in (me, other):
        other_service.activate(member)
    # The same proposal is made at both, byte by byte.
    proposal = consortium.sign(me, requests.PROPOSAL, actions(harmless()))
    here = shown(consortium.post("proposals:create", proposal))["proposalId"]
    there = shown(other_service.post("proposals:create", proposal))["proposalId"]
    assert here != there
    ballot = consortium.sign(other, requests.BALLOT, {"ballot": YES}, proposal_id=here)
    withdrawal = consortium.sign(me, requests.WITHDRAWAL, proposal_id=here)
    with nothing_is_written(other_service):
        for proposal_id, expected in ((here, (404, "ProposalNotFound")), (there, (400, "InvalidResourceName"))):
            path = f"proposals/{proposal_id}/ballots/{id_of(other)}:submit"
            assert code(other_service.post(path, ballot)) == expected
        assert other_service.post(f"proposals/{here}:withdraw", withdrawal).status == 204
        assert code(other_service.post(f"proposals/{there}:withdraw", withdrawal)) == (400, "InvalidResourceName")


def test_a_proposal_can_be_carried_to_another_service_unless_it_names_its_own(consortium: Consortium, other_service: Consortium) -> None:
    """As in CCF, a proposal's envelope names no service. It is open there, as of its signer, and decided by nobody's vote but new ones.

    Whoever signs for several services says which one is meant, by an action of the constitution.
    """
    me = consortium.members[0]
    if other_service.read(f"service/members/{id_of(me)}")["status"] != "Active":
        other_service.activate(me)
    cert = consortium.row(tables.SERVICE_INFO)["cert"]
    meant = ("assert_service_identity", {"service_identity": cert})
    bound = consortium.sign(me, requests.PROPOSAL, actions(meant, harmless()))
    assert shown(consortium.post("proposals:create", bound))["proposalState"] == "Open"
    with nothing_is_written(other_service):
        answer = other_service.post("proposals:create", bound)
    assert code(answer) == (400, "ProposalFailedToValidate")
    assert "service_identity" in json.loads(answer.body)["error"]["message"]
    plain = consortium.sign(me, requests.PROPOSAL, actions(harmless()))
    carried = shown(other_service.post("proposals:create", plain))
    assert (carried["proposalState"], carried["proposerId"], carried["ballotCount"]) == ("Open", id_of(me), 0)


# Ballots and proposals of others, and decided ones.


def test_no_ballot_counts_for_a_decided_proposal_nor_for_another_member(consortium: Consortium) -> None:
    me, other, hostile = consortium.members
    decided = shown(consortium.carry(harmless()))["proposalId"]
    withdrawn = newest(consortium)
    late = consortium.sign(hostile, requests.BALLOT, {"ballot": NO}, proposal_id=withdrawn)
    assert consortium.send(me, requests.WITHDRAWAL, f"proposals/{withdrawn}:withdraw", proposal_id=withdrawn).status == 200
    with nothing_is_written(consortium):
        assert code(consortium.post(f"proposals/{withdrawn}/ballots/{id_of(hostile)}:submit", late)) == (400, "ProposalNotOpen")
        assert code(consortium.vote(hostile, decided, NO)) == (404, "ProposalNotFound")  # only the last decided one is kept
    open_one = newest(consortium)
    with nothing_is_written(consortium):
        path = f"proposals/{open_one}/ballots/{id_of(other)}:submit"
        for named in (open_one, decided):
            ballot = consortium.sign(hostile, requests.BALLOT, {"ballot": YES}, proposal_id=named)
            assert code(consortium.post(path, ballot)) == (400, "InvalidResourceName")
        answer = consortium.send(hostile, requests.WITHDRAWAL, f"proposals/{open_one}:withdraw", proposal_id=open_one)
        assert code(answer) == (403, "AuthorizationFailed")
    assert shown(consortium.vote(hostile, open_one, NO))["ballotCount"] == 1
    with nothing_is_written(consortium):
        assert code(consortium.vote(hostile, open_one, YES)) == (400, "VoteAlreadyExists")


# What is proposed.


def deep(depth: int) -> bytes:
    return b'{"actions":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"actions":1}',
        b'{"actions":[{}]}',
        b'{"actions":[{"name":"remove_user","name":"set_user","args":{}}]}',
        b'{"actions":[{"name":"__proto__"}]}',
        b'{"actions":[{"name":"constructor","args":{}}]}',
        b'{"__proto__":{"actions":[]},"toString":1}',
        deep(5_000),
        deep(200_000),
        b'{"actions":[{"name":"remove_user","args":{"user_id":"' + b"a" * 400_000 + b'"}}]}',
        b'{"actions":[{"name":"transition_node_to_trusted","args":{"node_id":"a","valid_from":"' + b"2" * 200_000 + b'"}}]}',
        b'{"actions":[' + b",".join([b'{"name":"none"}'] * 50_000) + b"]}",
        b'{"actions":[{"name":"remove_user","args":{"user_id":1e999}}]}',
    ],
    ids=lambda payload: f"{payload[:24].decode(errors='replace')}-{len(payload)}",
)
def test_what_is_no_proposal_is_refused_and_leaves_nothing(consortium: Consortium, payload: bytes) -> None:
    with nothing_is_written(consortium):
        answer = consortium.send(consortium.members[2], requests.PROPOSAL, "proposals:create", payload)
        assert code(answer) == (400, "ProposalFailedToValidate")
        assert len(answer.body) < 10_000, "the refusal of something long is not long itself"


def test_a_request_that_is_too_large_is_refused_before_it_is_read(consortium: Consortium) -> None:
    with nothing_is_written(consortium):
        payload = b'{"actions":[], "more":"' + b"a" * BODY_BYTES_MAX + b'"}'
        answer = consortium.send(consortium.members[2], requests.PROPOSAL, "proposals:create", payload)
        assert code(answer) == (413, "RequestBodyTooLarge")


def certificate(key: Any, *, begins: int = -1, ends: int = 30) -> str:
    """By itself; dates in days from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostile")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(now + timedelta(days=begins)).not_valid_after(now + timedelta(days=ends))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


EC, RSA = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
CERTIFICATES: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no PEM": lambda: "certificate",
    "empty PEM": lambda: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "not DER": lambda: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "two": lambda: certificate(EC) + certificate(EC),
    "cut": lambda: certificate(EC).replace("\n-----END", "AA\n-----END"),
    "a key": lambda: certificate(EC).replace("CERTIFICATE", "PUBLIC KEY"),
}


@pytest.mark.parametrize("action", ["set_member", "set_user"])
@pytest.mark.parametrize("what", CERTIFICATES)
def test_what_is_no_certificate_makes_nobody_a_member_or_a_user(consortium: Consortium, action: str, what: str) -> None:
    with nothing_is_written(consortium):
        answer = consortium.propose(consortium.members[2], (action, {"cert": CERTIFICATES[what]()}))
        assert code(answer) == (400, "ProposalFailedToValidate")
        assert f"{action} at position 0: cert" in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize(("key", "dates"), [(RSA, {}), (EC, {"begins": -30, "ends": -1})], ids=["RSA", "expired"])
def test_a_member_whose_key_signs_nothing_here_is_no_danger(consortium: Consortium, key: Any, dates: dict[str, int]) -> None:
    """Where the constitution takes such a certificate, as CCF's does, its owner signs nothing with RSA; dates bind sessions alone."""
    answer = consortium.propose(consortium.members[2], ("set_member", {"cert": certificate(key, **dates)}))
    if answer.status != 200:
        assert code(answer) == (400, "ProposalFailedToValidate")
        return
    proposal_id = shown(answer)["proposalId"]
    for who in consortium.members[:2]:
        answer = consortium.vote(who, proposal_id)
    assert shown(answer)["proposalState"] == "Accepted"
    assert consortium.host.stopped is None
    assert shown(consortium.propose(consortium.members[0], harmless()))["proposalState"] == "Open"


# Ballots.


BALLOTS = {
    "throws": ("export function vote() { throw new Error('no'); }", "Error: no"),
    "recurses": ("export function vote() { return vote(); }", "stack"),
    "writes a table": (
        "export function vote() { ccf.kv['public:ccf.gov.users.certs'].set(ccf.strToBuf('a'), ccf.strToBuf('b')); return true; }",
        "",
    ),
    "writes its own record": (
        "export function vote(p) { ccf.kv['public:ccf.gov.proposals_info'].clear(); return true; }",
        "",
    ),
    "reads the application": ("export function vote() { return ccf.kv['records'].size === 0; }", ""),
    "opens the service": ("export function vote() { ccf.node.transitionServiceToOpen(); return true; }", ""),
    "imports": ("import { a } from './a.js'; export function vote() { return true; }", "a.js"),
    "imports later": ("export async function vote() { return (await import('/constitution.js')).apply(); }", ""),
    "is another function": ("export function veto() { return true; }", "vote"),
    "is no module": ("function {", "Error"),
    "is empty": ("", "vote"),
    "throws itself": ("export function vote() { throw undefined; }", ""),
    "has a poisoned error": (
        "export function vote() { throw { get message() { throw 1; }, toString() { throw 2; }, get stack() { throw 3; } }; }",
        "",
    ),
    "changes prototypes": (
        "Object.prototype.toJSON = () => true; Array.prototype.map = () => []; export function vote() { return ccf.kv.x.get(1); }",
        "",
    ),
}


@pytest.mark.parametrize("what", BALLOTS)
def test_what_a_ballot_does_is_its_own_failure(consortium: Consortium, what: str) -> None:
    """It is no vote, the reason stands in the record, the others' votes count, and nothing but the proposal is written."""
    first, second, hostile = consortium.members
    source, reason = BALLOTS[what]
    name = newest(consortium)
    before = len(consortium.host.entries)
    assert shown(consortium.vote(hostile, name, source))["proposalState"] == "Open"
    consortium.vote(first, name)
    decided = shown(consortium.vote(second, name))
    assert decided["proposalState"] == "Accepted"
    assert decided["finalVotes"] == {id_of(first): True, id_of(second): True}
    failure = decided["voteFailures"][id_of(hostile)]
    assert reason in failure["reason"]
    assert all(len(text) <= 4096 for text in failure.values())
    consortium.cluster.run(0.2)
    written = {name for data in consortium.host.entries[before:] for name in read_public(data).writes}
    assert written - {TREE} <= {
        tables.PROPOSALS,
        tables.PROPOSALS_INFO,
        tables.COSE_HISTORY,
        tables.OBSERVED_SIGNATURE,
        "public:ccf.internal.signatures",
        "public:ccf.internal.cose_signatures",
        tables.USER_CERTS,
        tables.USER_INFO,
    }


def test_a_ballot_that_gives_what_cannot_be_read_does_not_end_the_others_request(consortium: Consortium) -> None:
    """Nested so deeply that JavaScript still writes it, and Python does not read it: like any object, it counts as true."""
    first, _, hostile = consortium.members
    name = newest(consortium)
    nested = "export function vote() { let x = []; for (let depth = 0; depth < 1500; depth++) x = [x]; return x; }"
    assert shown(consortium.vote(hostile, name, nested))["proposalState"] == "Open"
    decided = shown(consortium.vote(first, name))
    assert decided["finalVotes"] == {id_of(first): True, id_of(hostile): True}


def test_a_ballot_sees_who_has_proposed_and_what_and_the_public_tables(consortium: Consortium) -> None:
    """As in CCF it may read governance's tables, with the ballots so far in them: votes are public, and a ballot may be a rule."""
    first, second, hostile = consortium.members
    name = newest(consortium)
    consortium.vote(first, name)
    spy = """export function vote(proposal, proposerId) {
      const info = ccf.bufToJsonCompatible(ccf.kv["public:ccf.gov.proposals_info"].get(ccf.strToBuf("%s")));
      throw new Error([JSON.parse(proposal).actions[0].name, proposerId, Object.keys(info.ballots)].join());
    }"""
    consortium.vote(hostile, name, spy % name)
    decided = shown(consortium.vote(second, name))
    reason = decided["voteFailures"][id_of(hostile)]["reason"]
    assert reason.startswith(f"Error: remove_user,{id_of(first)},{id_of(first)}")


def test_a_ballot_that_is_too_long_is_refused(consortium: Consortium) -> None:
    name = newest(consortium)
    with nothing_is_written(consortium):
        answer = consortium.vote(consortium.members[2], name, "/" * 300_000)
        assert code(answer) == (400, "InvalidInput")


def test_the_others_govern_on(consortium: Consortium) -> None:
    """After all this."""
    newcomer: Identity = make_identity("newcomer")
    assert shown(consortium.carry(("set_user", {"cert": newcomer.pem})))["proposalState"] == "Accepted"
    assert consortium.read(f"service/users/{id_of(newcomer)}")["userId"] == id_of(newcomer)
    assert consortium.host.stopped is None
    assert opening(consortium)
