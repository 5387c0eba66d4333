"""Ballots of a hostile member in a real service: they loop, eat memory and recurse in real workers. The others decide, and while such a
ballot runs, clients' writes go on to be committed. And a constitution that does the same for some proposals: those come to nothing, and all
others are decided as before.

What ballots say and reach for: `tests/enclave/governing/test_hostile_members.py`.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ledgerd.governance import requests
from ledgerd.ledger.audit import Auditor
from support.cluster import Identity
from support.governed import VERSION, id_of
from support.https import Answer, Request
from support.processes import wait_for
from support.voting import YES
from support.voting_service import MEMBERS, USER, VotingService

BALLOTS = {
    "loops": "export function vote() { for (;;); }",
    "eats memory": "export function vote() { const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1)); }",
    "grows a text": "export function vote() { let text = 'a'; for (;;) text += text; }",
    "recurses": "export function vote() { return vote() + 1; }",
    "backtracks": "export function vote() { return /^(a+)+$/.test('a'.repeat(64) + 'b'); }",
    "loops as it is loaded": "for (;;); export function vote() { return true; }",
}
LONG = ("loops", "backtracks", "loops as it is loaded")  # until their time is over: each vote runs all ballots, and each has three seconds
COMMITS_MIN = 8  # while a script takes its time; if they waited for it there would be one with each request of a member


class Members:
    """The three members of a service, who sign and send."""

    def __init__(self, service: VotingService) -> None:
        self.service = service
        self.time = int(time.time())

    def post(self, who: Identity, kind: str, path: str, payload: Any = None, **about: Any) -> Answer:
        body = b"" if payload is None else json.dumps(payload).encode()
        self.time += 1
        envelope = requests.sign(who.key, who.certificate, kind, body, created_at=self.time, **about)
        node = self.service.nodes[0]
        with node.session() as client:
            headers = {"content-type": requests.CONTENT_TYPE}
            return client.ask_all([Request("POST", f"/gov/members/{path}{VERSION}", envelope, headers)])[0]

    def activate(self, who: Identity) -> None:
        digest = self.post(who, "state_digest", f"state-digests/{id_of(who)}:update").json()["stateDigest"]
        assert self.post(who, "ack", f"state-digests/{id_of(who)}:ack", {"stateDigest": digest}).status == 204

    def propose(self, who: Identity, name: str, args: Any) -> str:
        answer = self.post(who, "proposal", "proposals:create", {"actions": [{"name": name, "args": args}]})
        assert answer.status == 200, answer.body
        return str(answer.json()["proposalId"])

    def vote(self, who: Identity, proposal_id: str, ballot: str = YES) -> Answer:
        path = f"proposals/{proposal_id}/ballots/{id_of(who)}:submit"
        return self.post(who, "ballot", path, {"ballot": ballot}, proposal_id=proposal_id)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    service = VotingService(tmp_path_factory.mktemp("ballots"), nodes=1)
    with service:
        made = Members(service)
        first, second, _ = (service.identities[name] for name in MEMBERS)
        for name in MEMBERS:
            made.activate(service.identities[name])
        for action, args in (
            ("transition_service_to_open", {"next_service_identity": service.certificate.read_text()}),
            ("set_user", {"cert": service.identities[USER].pem}),
        ):
            proposal_id = made.propose(first, action, args)
            made.vote(first, proposal_id)
            assert made.vote(second, proposal_id).json()["proposalState"] == "Accepted"
        service.nodes[0].wait_open()
        yield made


class Writer:
    """A user that writes one thing after the other, each until it is committed."""

    def __init__(self, service: VotingService) -> None:
        self._service = service
        self._ends = threading.Event()
        self.commits = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writer":
        self._thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def wait_for_more(self) -> None:
        count = self.commits + 3
        wait_for(lambda: self.commits >= count, "writes are committed")

    def _run(self) -> None:
        with self._service.nodes[0].session(USER) as client:
            while not self._ends.is_set():
                answer = client.ask_all([Request("PUT", "/app/records/k", b"v", {"prefer": "committed"})])[0]
                assert answer.status == 204
                self.commits += 1


@pytest.mark.parametrize("what", BALLOTS)
def test_a_ballot_that_does_not_end_stops_neither_the_vote_nor_commits(members: Members, what: str) -> None:
    service = members.service
    first, second, hostile = (service.identities[name] for name in MEMBERS)
    proposal_id = members.propose(first, "trigger_ledger_chunk", None)
    with Writer(service) as writer:
        before = writer.commits
        assert members.vote(hostile, proposal_id, BALLOTS[what]).json()["proposalState"] == "Open"
        members.vote(first, proposal_id)
        decided = members.vote(second, proposal_id)
        during = writer.commits - before
        writer.wait_for_more()
    assert decided.status == 200, decided.body
    shown = decided.json()
    assert shown["proposalState"] == "Accepted"
    assert shown["finalVotes"] == {id_of(first): True, id_of(second): True}
    assert set(shown["voteFailures"]) == {id_of(hostile)}
    assert what not in LONG or during >= COMMITS_MIN
    assert service.nodes[0].process.poll() is None


# What a constitution does for a proposal to remove the user of such a number.

HARMS: dict[str, tuple[str, str]] = {
    "validate loops": ("validate", "for (;;);"),
    "validate recurses": ("validate", "const down = () => down() + 1; down();"),
    "resolve loops": ("resolve", "for (;;);"),
    "resolve eats memory": ("resolve", "const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1));"),
    "apply loops": ("apply", "for (;;);"),
    "apply throws": ("apply", "throw new Error('no');"),
}
FAILED = {"validate": "Failed to execute validation: ", "resolve": "Failed to resolve(): ", "apply": "Failed to apply(): "}
HARMFUL = """
const HARMS = new Map([%s]);
function harm(where, text) {
  const found = HARMS.get(JSON.parse(text).actions[0].args?.user_id);
  if (found?.where === where) found.does();
}
export function validate(input) { harm("validate", input); return validateBefore(input); }
export function resolve(proposal, proposerId, votes, proposalId) {
  harm("resolve", proposal);
  return resolveBefore(proposal, proposerId, votes, proposalId);
}
export function apply(proposal, proposalId) { harm("apply", proposal); return applyBefore(proposal, proposalId); }
"""


def numbered(name: str) -> str:
    return f"{list(HARMS).index(name):064x}"


def harmful(text: str) -> str:
    """A constitution that does all this, and otherwise what it did."""
    for function in ("validate", "resolve", "apply"):
        assert text.count(f"export function {function}(") == 1
        text = text.replace(f"export function {function}(", f"function {function}Before(")
    cases = [f'["{numbered(name)}", {{ where: "{where}", does() {{ {body} }} }}]' for name, (where, body) in HARMS.items()]
    return text + HARMFUL % ", ".join(cases)


@pytest.fixture(scope="module")
def under_harm(members: Members) -> Members:
    """The same service, whose members have decided on that constitution."""
    first, second, _ = (members.service.identities[name] for name in MEMBERS)
    node = members.service.nodes[0]
    with node.session() as client:
        text = client.ask("GET", f"/gov/service/constitution{VERSION}").body.decode()
    proposal_id = members.propose(first, "set_constitution", {"constitution": harmful(text)})
    members.vote(first, proposal_id)
    assert members.vote(second, proposal_id).json()["proposalState"] == "Accepted"
    return members


@pytest.mark.parametrize("what", HARMS)
def test_a_constitution_that_fails_harms_only_the_proposal_that_it_fails_for(under_harm: Members, what: str) -> None:
    service = under_harm.service
    first, second, _ = (service.identities[name] for name in MEMBERS)
    node = service.nodes[0]

    def read(path: str) -> Any:
        with node.session() as client:
            return client.ask("GET", f"/gov/{path}{VERSION}").json()

    before = read("members/proposals")
    with Writer(service) as writer:
        written = writer.commits
        action = {"name": "remove_user", "args": {"user_id": numbered(what)}}
        answer = under_harm.post(first, "proposal", "proposals:create", {"actions": [action]})
        if HARMS[what][0] == "apply":
            proposal_id = answer.json()["proposalId"]
            assert under_harm.vote(first, proposal_id).json()["proposalState"] == "Open"
            before = read("members/proposals")
            answer = under_harm.vote(second, proposal_id)
        during = writer.commits - written
    assert (answer.status, answer.json()["error"]["code"]) == (500, "InternalError"), answer.body
    assert answer.json()["error"]["message"].startswith(FAILED[HARMS[what][0]])
    assert read("members/proposals") == before, "nothing of it is there, nor is the ballot that would have had it applied"
    if "loops" in what:
        assert during >= COMMITS_MIN, "writes waited while it looped"
    decided = under_harm.propose(first, "trigger_ledger_chunk", None)
    under_harm.vote(first, decided)
    assert under_harm.vote(second, decided).json()["proposalState"] == "Accepted"
    assert node.process.poll() is None


def test_the_ledger_of_all_that_is_sound(under_harm: Members) -> None:
    service = under_harm.service
    committed = service.settle()
    auditor = Auditor(service.certificate.read_text())
    for entry in service.nodes[0].entries(committed):
        auditor.feed(entry)
    assert auditor.result().anchored
    assert "the node stops" not in service.nodes[0].log()
