"""Every refusal that the description of `/gov` names is given by a running service, and it gives none that is not named.

What is asked for stands in scenarios; each answer is written down as (endpoint, status, code), and compared with what `GET /gov/api` says.
So neither a code that cannot be reached nor one that nobody described stays there.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from ledgerd.enclave import scripting
from ledgerd.enclave.outbound import Answer
from ledgerd.enclave.scripts import pool
from ledgerd.governance import requests, tables
from support.cluster import BY_VOTE, SANDBOX, Host, Identity, make_identity
from support.governed import VERSION, id_of
from support.members import node_id
from support.voting import NO, YES, Consortium, code, opening, shown

Reached = set[tuple[str, int, str]]

NOBODY: Final = "ab" * 32
STRANGER = make_identity("stranger")
KINDS: Final = {
    "proposals:create": requests.PROPOSAL,
    ":withdraw": requests.WITHDRAWAL,
    ":submit": requests.BALLOT,
    ":update": requests.STATE_DIGEST,
    ":ack": requests.ACK,
    ":recover": requests.RECOVERY_SHARE,
}
# CCF's codes of /gov, by its documentation; those of recovery that no service here can give yet are named beside.
CCFS: Final = {
    "AuthorizationFailed",
    "InternalError",
    "InvalidAuthenticationInfo",
    "InvalidCreatedAt",
    "InvalidInput",
    "InvalidResourceName",
    "MissingApiVersionParameter",
    "ProposalCreatedTooLongAgo",
    "ProposalFailedToValidate",
    "ProposalNotFound",
    "ProposalNotOpen",
    "ProposalReplay",
    "ResourceNotFound",
    "ServiceNotWaitingForRecoveryShares",
    "StateDigestMismatch",
    "UnsupportedApiVersionValue",
    "VoteAlreadyExists",
    "VoteNotFound",
}
NOT_YET: Final = {"NodeAlreadyRecovering"}  # it takes a recovery that is under way


class Asking(Consortium):
    """A consortium that remembers how each of its requests was refused."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[tuple[str, str, Answer]] = []
        self.alive: Host | None = None
        super().__init__(**options)

    def post(self, path: str, envelope: bytes, host: Host | None = None, query: str = VERSION) -> Answer:
        client = self.cluster.client(host or self.host)
        answer = client.ask("POST", f"/gov/{path}{query}", envelope, content_type=requests.CONTENT_TYPE)
        self.seen.append(("post", path, answer))
        return answer

    def send(self, who: Any, kind: str, path: str, payload: Any = b"", **about: Any) -> Answer:
        return self.post(path if path.startswith("recovery/") else f"members/{path}", self.sign(who, kind, payload, **about))

    def get(
        self, path: str, query: str = VERSION, host: Host | None = None, who: Identity | None = None, accept: str = "application/json"
    ) -> Answer:
        """Read, as nobody or over a member's session."""
        answer = self.cluster.client(host or self.host, who).ask("GET", f"/gov/{path}{query}", accept=accept)
        self.seen.append(("get", path, answer))
        return answer

    def preview(self, *wanted: tuple[str, Any], query: str = VERSION, host: Host | None = None, **more: Any) -> Answer:
        """Ask what a proposal would do, over the first member's session unless `who` is given."""
        body = json.dumps({"actions": [{"name": name, "args": args} for name, args in wanted]}).encode()
        client = self.cluster.client(host or self.host, more.get("who", self.members[0]))
        path = "members/proposals:preview"
        answer = client.ask("POST", f"/gov/{path}{query}", body, content_type=more.get("content_type", "application/json"))
        self.seen.append(("post", path, answer))
        return answer

    def document(self) -> dict[str, Any]:
        """The description of /gov."""
        made: dict[str, Any] = json.loads(self.cluster.client(self.alive or self.host).ask("GET", "/gov/api").body)
        return made

    @property
    def serving(self) -> Any:
        """The first node's serving part."""
        return self.host.enclave._serving

    def put(self, name: str, key: bytes, record: Any) -> None:
        """Write a record past governance."""
        self.serving._apply_and_propose({name: {key: None if record is None else tables.encode(record)}})


def refusals(document: dict[str, Any]) -> Reached:
    """All that a description of /gov names."""
    return {
        (f"{method} {path}", int(status), name)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        for status, answer in operation["responses"].items()
        if status >= "400" and status != "default"
        for name in answer["description"].split(", ")
    }


def reached_by(asking: Asking) -> Reached:
    """The refusals that were given, by the templates that the paths match."""
    templates = {
        (method, re.compile("/" + re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(path[1:])))): path
        for path, item in asking.document()["paths"].items()
        for method in item
    }
    found = set()
    for method, path, answer in asking.seen:
        if answer.status >= 400:
            matching = [template for (verb, form), template in templates.items() if verb == method and form.fullmatch(f"/{path}")]
            template = next((name for name in matching if "{" not in name), matching[0])
            found.add((f"{method} {template}", *code(answer)))
    return found


# Scenarios.


def of_every_endpoint() -> Asking:
    """Versions, names in paths, and who has signed."""
    asking = Asking()
    me = asking.members[0]
    for path, item in asking.document()["paths"].items():
        for method, operation in item.items():
            names = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
            if "api-version" not in names:
                continue
            filled = re.sub(r"\{memberId\}", id_of(me), path[1:])
            filled = re.sub(r"\{\w+\}", NOBODY, filled)
            malformed = re.sub(r"\{\w+Id\}", "0", path[1:])
            if method == "get":
                asking.get(filled, "", who=me)
                asking.get(filled, "?api-version=1", who=me)
                asking.get(malformed, who=me)
                asking.get(filled)
                asking.get(re.sub(r"\{\w+\}", NOBODY, path[1:]), who=me)
                continue
            if path.endswith(":preview"):
                for query in ("", "?api-version=1"):
                    asking.preview(query=query)
                asking.preview(who=None)
                asking.preview(content_type=requests.CONTENT_TYPE)
                continue
            kind = next(kind for end, kind in KINDS.items() if path.endswith(end))
            asking.post(filled, asking.sign(me, kind, b"{}"), query="")
            asking.post(filled, asking.sign(me, kind, b"{}"), query="?api-version=1")
            asking.post(filled, asking.sign(STRANGER, kind, b"{}"))
            if malformed != path[1:]:
                asking.post(malformed, asking.sign(me, kind, b"{}", proposal_id="0"))
            asking.post(filled, asking.sign(me, kind, b"{}", proposal_id=NOBODY))
    asking.get("service/javascript-app", f"{VERSION}&case=upper")
    asking.get("service/transactions/2.x")
    return asking


def built_ins() -> Asking:
    """What every frontend has, and what a host does to receipts."""
    asking = Asking()
    asking.cluster.run(0.2)
    asking.get("commit", "?view_history=maybe")
    asking.get("commit", "?view_history_since=99")
    asking.get("tx", "")
    for path, item in asking.document()["paths"].items():
        if "406" in item.get("get", {}).get("responses", {}):
            asking.get(path[1:], "?transaction_id=2.3", accept="text/html")
            asking.get(path[1:], "?transaction_id=2.3", accept="nothing")
    for path in ("receipt", "receipt/cose"):
        for query in ("", "?transaction_id=1.1", "?transaction_id=9.999999"):
            asking.get(path, query)
        for given in (lambda seqno, data: None, lambda seqno, data: data[:-1] + bytes([data[-1] ^ 1])):
            asking.host.read_back = given
            asking.get(path, "?transaction_id=2.3")
        with patch("ledgerd.enclave.archive.RECEIPTS_MAX", 0):
            asking.get(path, "?transaction_id=2.3")
    return asking


def acknowledging() -> Asking:
    """Another member's name; no digest, a malformed and another one; a service that has signed nothing."""
    asking = Asking(active=2)
    me, other, third = asking.members
    for action, kind in (("update", requests.STATE_DIGEST), ("ack", requests.ACK)):
        asking.send(me, kind, f"state-digests/{id_of(other)}:{action}", {"stateDigest": "0"})
    asking.send(third, requests.ACK, f"state-digests/{id_of(third)}:ack", {"stateDigest": "0"})
    asking.send(me, requests.ACK, f"state-digests/{id_of(me)}:ack", {})
    asking.send(me, requests.ACK, f"state-digests/{id_of(me)}:ack", {"stateDigest": "0"})
    with patch("ledgerd.enclave.governing.acks.SIGNATURES", "public:nothing.here"):  # as in the first instant of a service
        asking.send(me, requests.STATE_DIGEST, f"state-digests/{id_of(me)}:update")
    return asking


def proposing() -> Asking:
    """What is no proposal; what comes too early, too late, or again; what a constitution makes of it."""
    asking = Asking()
    me = asking.members[0]
    asking.propose(me, ("make_me_rich", {}))
    now = asking.serving.status.now_ms // 1000
    asking.send(me, requests.PROPOSAL, "proposals:create", b"{}", created_at=now + 86_400)
    envelope = asking.sign(me, requests.PROPOSAL, {"actions": [{"name": "set_constitution", "args": {"constitution": "no"}}]})
    asking.post("members/proposals:create", envelope)
    again = asking.sign(me, requests.PROPOSAL, {"actions": [{"name": "remove_user", "args": {"user_id": NOBODY}}]})
    assert asking.post("members/proposals:create", again).status == 200
    asking.post("members/proposals:create", again)
    with patch("ledgerd.enclave.governing.proposing.OPEN_MAX", 1):
        asking.propose(me, ("remove_user", {"user_id": NOBODY}))
    config = asking.row(tables.SERVICE_CONFIG)
    asking.put(tables.SERVICE_CONFIG, tables.SINGLETON, {**config, "recent_cose_proposals_window_size": 1})
    asking.send(me, requests.PROPOSAL, "proposals:create", {"actions": []}, created_at=1)
    asking.put(tables.CONSTITUTION, tables.SINGLETON, "export function validate() { throw new Error('no'); }")
    asking.propose(me, ("remove_user", {"user_id": NOBODY}))
    asking.put(tables.CONSTITUTION, tables.SINGLETON, None)
    asking.get("service/constitution")
    asking.put(tables.SERVICE_INFO, tables.SINGLETON, None)
    asking.get("service/info")
    return asking


def voting() -> Asking:
    """Proposals of others, unknown and decided ones, ballots that are none, twice, or never."""
    asking = Asking()
    first, second, third = asking.members
    name = shown(asking.propose(first, opening(asking)))["proposalId"]
    assert asking.send(second, requests.WITHDRAWAL, f"proposals/{name}:withdraw", proposal_id=name).status == 403
    asking.get(f"members/proposals/{name}/ballots/{id_of(first)}")
    asking.send(first, requests.BALLOT, f"proposals/{name}/ballots/{id_of(first)}:submit", {"ballot": 1}, proposal_id=name)
    assert asking.vote(first, name, NO).status == 200
    asking.vote(first, name, YES)
    for who in (second, third):
        assert asking.vote(who, name).status == 200
    asking.get(f"members/proposals/{name}/effects", who=first)
    asking.vote(first, name)
    asking.send(first, requests.WITHDRAWAL, f"proposals/{name}:withdraw", proposal_id=name)
    broken = shown(asking.propose(first, ("transition_service_to_open", {"next_service_identity": STRANGER.pem})))["proposalId"]
    asking.vote(first, broken)
    asking.vote(second, broken)
    asking.send(first, requests.RECOVERY_SHARE, f"recovery/members/{id_of(first)}:recover", {"share": ""})
    return asking


def nodes(constitution: str) -> Asking:
    """What would end the service, and what cannot be said yet: by the last vote, or by the proposal where that is enough."""
    asking = Asking(constitution=constitution)
    cluster = asking.cluster
    n0 = asking.host

    def attempt(name: str, *hosts: Host, at: Host | None = None) -> Answer:
        """Propose and vote until it is accepted, or refused."""
        me, other, _ = asking.members
        actions = [{"name": name, "args": {"node_id": node_id(host)}} for host in hosts]
        envelope = asking.sign(me, requests.PROPOSAL, {"actions": actions})
        answer = asking.post("members/proposals:create", envelope, at)
        proposal = json.loads(answer.body)
        if answer.status == 200 and proposal["proposalState"] == "Open":
            for who in (me, other):
                answer = asking.vote(who, proposal["proposalId"])
        return answer

    def trust(*hosts: Host) -> None:
        cluster.until(lambda: {node_id(host) for host in hosts} <= set(waiting()))
        cluster.run(0.2)
        assert attempt("transition_node_to_trusted", *hosts).status == 200
        cluster.until(lambda: all(host.notices.get("open") for host in hosts))

    def waiting() -> list[str]:
        return [node["nodeId"] for node in asking.read("service/nodes")["value"] if node["status"] == "Pending"]

    if shown(asking.propose(asking.members[0], opening(asking)))["proposalState"] == "Open":
        asking.open()
    assert code(attempt("remove_node", n0)) == (400, "LastNode")
    n1 = cluster.join("n1")
    cluster.until(lambda: bool(waiting()))
    cluster.run(0.2)
    cluster.latency = 0.3  # of the disk, too
    n2 = cluster.join("n2")
    cluster.until(lambda: len(waiting()) == 2)
    trusting = ("transition_node_to_trusted", {"node_id": node_id(n2)})
    if constitution == BY_VOTE:
        name = shown(asking.propose(asking.members[0], trusting))["proposalId"]
        assert code(asking.get(f"members/proposals/{name}/effects", who=asking.members[0])) == (503, "NodeNotCommitted")
    assert code(asking.preview(trusting)) == (503, "NodeNotCommitted")
    assert code(attempt("transition_node_to_trusted", n2)) == (503, "NodeNotCommitted")
    cluster.latency = 0.0
    cluster.run(1.5)  # what travels arrives
    trust(n1, n2)
    cluster.run(0.5)
    open_one = shown(asking.propose(asking.members[0], ("trigger_ledger_chunk", None)))["proposalId"]
    asking.vote(asking.members[2], open_one, NO)
    with full_pool():
        asking.propose(asking.members[0], ("trigger_ledger_chunk", None))
        asking.vote(asking.members[1], open_one)
        asking.preview(("trigger_ledger_chunk", None))
        asking.get(f"members/proposals/{open_one}/effects", who=asking.members[0])
        before, scripting.WAITING_MAX = scripting.WAITING_MAX, 0  # type: ignore[misc]
        asking.send(asking.members[0], requests.WITHDRAWAL, f"proposals/{open_one}:withdraw", proposal_id=open_one)
        scripting.WAITING_MAX = before  # type: ignore[misc]
    cluster.kill(n2)
    cluster.run(1.2)  # until the primary has heard nothing of it for an election timeout
    assert code(attempt("remove_node", n1)) == (400, "TooFewLiveNodes")
    cluster.kill(n0)
    cluster.run(1.2)
    assert code(attempt("remove_node", n2, at=n1)) == (503, "PrimaryNotFound")
    path = f"members/proposals/{open_one}/ballots/{id_of(asking.members[1])}:submit"
    envelope = asking.sign(asking.members[1], requests.BALLOT, {"ballot": YES}, proposal_id=open_one)
    assert code(asking.post(path, envelope, n1)) == (503, "PrimaryNotFound")
    assert code(asking.preview(host=n1)) == (503, "PrimaryNotFound")
    assert code(asking.get(f"members/proposals/{open_one}/effects", host=n1, who=asking.members[0])) == (503, "PrimaryNotFound")
    asking.alive = n1
    return asking


@contextmanager
def full_pool() -> Iterator[None]:
    """As if as many scripts waited as may."""
    before = pool.QUEUED_MAX
    pool.QUEUED_MAX = 0  # type: ignore[misc]
    yield
    pool.QUEUED_MAX = before  # type: ignore[misc]


SCENARIOS: Final[tuple[Callable[[], Asking], ...]] = (
    of_every_endpoint,
    built_ins,
    acknowledging,
    proposing,
    voting,
    partial(nodes, BY_VOTE),
    partial(nodes, SANDBOX),
)


def test_every_refusal_is_described_and_every_described_one_is_reached() -> None:
    reached: Reached = set()
    named: Reached = set()
    for scenario in SCENARIOS:
        asking = scenario()
        named |= refusals(asking.document())
        reached |= reached_by(asking)
    assert not sorted(reached - named), "given, but not described"
    assert not sorted(named - reached), "described, but never given"
    assert {name for _, _, name in reached} >= CCFS
    assert not NOT_YET & {name for _, _, name in reached}
