"""The whole life of a service that three members govern, in one process; its ledger has every kind of request that they can make."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ledgerd.apps.logging import app
from ledgerd.governance import requests, tables
from ledgerd.ledger import cose
from ledgerd.ledger.entry import WriteSet, read_public
from ledgerd.ledger.signature import SIGNATURES, parse
from support.auditing import refusal
from support.cluster import BY_VOTE, Cluster, Host, Identity, make_identity
from support.governed import VERSION, id_of
from support.members import SIGNED_AT, node_id, send
from support.rewriting import Change, Keys, opened, rewrite

FOR, AGAINST = "export function vote() { return true; }", "export function vote() { return false; }"
THROWING: Final = "export function vote() { throw new Error('I cannot read this'); }"


@dataclass
class Ledger:
    """A service's whole ledger, and what its owner can do with it.

    Attributes:
        places: Seqnos of what was done, by words for it.
    """

    entries: list[bytes]
    certificate: str
    keys: Keys
    places: dict[str, int] = field(default_factory=dict)

    def writes(self, seqno: int) -> WriteSet:
        """What an entry writes."""
        return opened(self.entries, self.keys)[seqno - 1].writes

    def first(self, *names: str) -> int:
        """Seqno of the first entry after the genesis that writes all of these tables."""
        return self.all(*names)[0]

    def all(self, *names: str) -> list[int]:
        """Seqnos of all entries after the genesis that write all of these tables."""
        return [entry.seqno for entry in opened(self.entries, self.keys)[1:] if all(name in entry.writes for name in names)]

    def row(self, seqno: int, name: str) -> tuple[bytes, dict[str, Any]]:
        """The one record that an entry writes to a table."""
        ((key, value),) = self.writes(seqno)[name].items()
        assert value is not None
        return key, tables.decode(value)

    def rewritten(self, change: Change | None = None, added: Mapping[int, Sequence[WriteSet]] | None = None) -> list[bytes]:
        """The ledger as its owner would have it; see `rewrite`."""
        return rewrite(self.entries, self.keys, change or (lambda _, writes: writes), added)

    def refused(self, change: Change | None = None, added: Mapping[int, Sequence[WriteSet]] | None = None) -> Any:
        """Why its governance does not follow once it was rewritten."""
        return refusal(self.rewritten(change, added), self.certificate)


class Life:
    """A service with admission by vote, under way."""

    def __init__(self, members: Sequence[Identity] = (), *, encryption_key: str | None = None, **start: Any) -> None:
        self.members = list(members) or [make_identity(name) for name in ("alice", "bob", "carol")]
        self.cluster = Cluster(app)
        options = {
            "members": [{"certificate": member.pem, "data": None, "encryption_key": encryption_key} for member in self.members],
            "users": [],
            "measurements": [],
            "constitution": BY_VOTE,
            "admission": "vote",
            "open_at_nodes": None,
            "application_policy": "open",
            "curve": "secp256r1",
            "service_subject": "CN=Test Service",
            **start,
        }
        self.primary = self.cluster.add("n0", self.cluster.configuration("n0", "start", start=options))
        self.cluster.until(lambda: "service_certificate" in self.primary.notices)
        self.cluster.run(1.5)
        self.places: dict[str, int] = {}
        self.created_at = SIGNED_AT
        self.identities: dict[str, str] = {}  # of proposals, by words for them

    @property
    def certificate(self) -> str:
        """The service's."""
        return self.primary.notices["service_certificate"]

    def ask(self, who: Identity, kind: str, path: str, payload: Any = None, proposal_id: str | None = None, status: int = 200) -> Any:
        """Send something signed; what the service answers."""
        self.created_at += 1
        body = b"" if payload is None else json.dumps(payload).encode()
        envelope = requests.sign(who.key, who.certificate, kind, body, created_at=self.created_at, proposal_id=proposal_id)
        answer = send(self.cluster, self.primary, envelope, f"/gov/members/{path}{VERSION}")
        assert answer.status == status, (answer.status, answer.body)
        return json.loads(answer.body) if answer.body else None

    def mark(self, name: str) -> None:
        """Remember where the last entry that is no signature stands."""
        keys = Keys.of(self.cluster)
        last = max(entry.seqno for entry in opened(self.primary.entries, keys) if SIGNATURES not in entry.writes)
        self.places[name] = last

    def acknowledge(self, who: Identity) -> None:
        """Become active."""
        self.cluster.run(1.5)
        digest = self.ask(who, requests.STATE_DIGEST, f"state-digests/{id_of(who)}:update")["stateDigest"]
        self.ask(who, requests.ACK, f"state-digests/{id_of(who)}:ack", {"stateDigest": digest}, status=204)

    def begin(self) -> None:
        """All acknowledge."""
        for number, member in enumerate(self.members):
            self.acknowledge(member)
            self.mark(f"ack {number}")

    def propose(self, name: str, *actions: tuple[str, dict[str, Any]], who: int = 0) -> str:
        """Make a proposal; its id."""
        payload = {"actions": [{"name": action, "args": arguments} for action, arguments in actions]}
        shown = self.ask(self.members[who], requests.PROPOSAL, "proposals:create", payload)
        self.mark(name)
        self.identities[name] = shown["proposalId"]
        return str(shown["proposalId"])

    def vote(self, name: str, who: int, ballot: str = FOR, state: str = "Open") -> None:
        """Vote on a proposal, which is then in this state."""
        member, proposal_id = self.members[who], self.identities[name]
        path = f"proposals/{proposal_id}/ballots/{id_of(member)}:submit"
        shown = self.ask(member, requests.BALLOT, path, {"ballot": ballot}, proposal_id)
        assert shown["proposalState"] == state, shown
        self.mark(f"{name}, vote of {['alice', 'bob', 'carol'][who]}")

    def decide(self, name: str, *actions: tuple[str, dict[str, Any]]) -> None:
        """Propose, and have it accepted by two of three."""
        self.propose(name, *actions)
        self.vote(name, 0)
        self.vote(name, 1, state="Accepted")

    def withdraw(self, name: str, who: int = 0) -> None:
        """Withdraw a proposal."""
        proposal_id = self.identities[name]
        self.ask(self.members[who], requests.WITHDRAWAL, f"proposals/{proposal_id}:withdraw", None, proposal_id)
        self.mark(f"{name}, withdrawn")

    def admit(self, **certificate: Any) -> Host:
        """Another node asks to join, and is trusted by vote. Args: certificate: what the proposal says of its certificate."""
        joiner = self.cluster.join("n1")
        self.cluster.until(lambda: any(tables.NODE_INFO in read_public(entry).writes for entry in self.primary.entries[1:]))
        self.cluster.run(1.5)
        self.decide("trust", ("transition_node_to_trusted", {"node_id": node_id(joiner), **certificate}))
        self.cluster.until(lambda: bool(joiner.notices.get("open")))
        self.settle()
        return joiner

    def now(self) -> str:
        """What time the service has signed last, as proposals state times."""
        written = [found.cose for entry in self.primary.entries if (found := parse(read_public(entry).writes)) and found.cose]
        return datetime.fromtimestamp(cose.read_root_header(cose.decode(written[-1])).issued_at, UTC).strftime("%y%m%d%H%M%SZ")

    def settle(self) -> None:
        """Wait until the first node leads and what it writes is committed."""
        self.cluster.writer([self.primary])

    def ledger(self) -> Ledger:
        """All of it, signed."""
        self.cluster.run(2.0)
        return Ledger(list(self.primary.entries), self.certificate, Keys.of(self.cluster), self.places)


def short_life(constitution: str) -> tuple[Life, Ledger]:
    """What any constitution of CCF's can do: open, a user and its data, a node that joins and one that leaves, a proposal withdrawn."""
    life = Life(constitution=constitution)
    life.begin()
    life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
    user = make_identity("user")
    life.propose("user", ("set_user", {"cert": user.pem}), ("set_user_data", {"user_id": id_of(user), "user_data": {"role": "clerk"}}))
    life.vote("user", 1)
    life.vote("user", 2, THROWING)
    life.vote("user", 0, state="Accepted")
    life.propose("withdrawn", ("remove_user", {"user_id": id_of(user)}), who=2)
    life.withdraw("withdrawn", 2)
    joiner = life.admit(valid_from=life.now(), validity_period_days=30)
    life.decide("retire", ("remove_node", {"node_id": node_id(joiner)}))
    life.cluster.until(lambda: "retired" in joiner.notices)
    life.cluster.run(1.0)
    life.decide("constitution", ("set_constitution", {"constitution": BY_VOTE}))
    return life, life.ledger()


def whole_life() -> tuple[Life, Ledger]:
    """From Opening to Open, a user, an application, certificates, a node that joins and one that leaves, another constitution."""
    life = Life()
    life.begin()
    life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
    user = make_identity("user")
    life.propose("user", ("set_user", {"cert": user.pem, "user_data": {"role": "clerk"}}), who=1)
    life.vote("user", 1)
    life.vote("user", 2, THROWING)
    life.vote("user", 0, state="Accepted")
    properties = {
        "js_module": "hello.js",
        "js_function": "hello",
        "mode": "readonly",
        "forwarding_required": "sometimes",
        "authn_policies": ["user_cert"],
    }
    bundle = {
        "metadata": {"endpoints": {"/hello": {"get": properties}}},
        "modules": [{"name": "hello.js", "module": "export function hello() { return { body: 'hello' }; }"}],
    }
    life.decide("application", ("set_js_app", {"bundle": bundle}))
    joiner = life.admit()
    life.decide("certificates", ("set_all_nodes_certificate_validity", {"validity_period_days": 90}))
    life.decide("service certificate", ("set_service_certificate_validity", {"validity_period_days": 180}))
    life.propose("withdrawn", ("remove_user", {"user_id": id_of(user)}))
    life.withdraw("withdrawn")
    life.propose("dropped", ("remove_user", {"user_id": id_of(user)}))
    life.vote("dropped", 0)
    life.propose("rejecting", ("set_proposal_policy", {"rejection": "majority"}))
    life.vote("rejecting", 0)
    life.vote("rejecting", 1, state="Accepted")
    life.propose("rejected", ("remove_user", {"user_id": id_of(user)}))
    life.vote("rejected", 0, AGAINST)
    life.vote("rejected", 2, AGAINST, state="Rejected")
    life.decide("retire", ("remove_node", {"node_id": node_id(joiner)}))
    life.cluster.until(lambda: "retired" in joiner.notices)
    life.cluster.run(1.0)
    life.decide("constitution", ("set_constitution", {"constitution": BY_VOTE + "\n// another one\n"}))
    return life, life.ledger()
