"""A service that three members govern by vote, in one process and virtual time."""

import json
from typing import Any

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from support.cluster import BY_VOTE, Cluster, Host, Identity, make_identity
from support.governed import VERSION, id_of
from support.members import SIGNED_AT, send

YES, NO = (f"export function vote(proposal, proposerId) {{ return {answer}; }}" for answer in ("true", "false"))


class Consortium:
    """A service that three members have started, and who are active.

    Attributes: time: When the last request was signed, seconds since 1970; each is signed one second after the one before.
    """

    def __init__(self, constitution: str = BY_VOTE, active: int = 3, members: list[Identity] | None = None) -> None:
        self.members = members or [make_identity(f"member{number}") for number in range(3)]
        self.cluster = Cluster(app)
        parties = [{"certificate": member.pem, "data": {"name": f"member{number}"}} for number, member in enumerate(self.members)]
        self.cluster.begin(admission="vote", members=parties, open_at_nodes=None, constitution=constitution)
        self.time = SIGNED_AT
        for member in self.members[:active]:
            self.activate(member)

    @property
    def host(self) -> Host:
        """Its first node."""
        return self.cluster.hosts["n0"]

    def sign(self, who: Identity, kind: str, payload: Any = b"", **about: Any) -> bytes:
        """Sign something; what is no bytes is signed as JSON."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.time += 1
        return requests.sign(who.key, who.certificate, kind, body, **{"created_at": self.time, **about})

    def post(self, path: str, envelope: bytes, host: Host | None = None) -> Answer:
        """Send a signed request, to the first node unless said."""
        return send(self.cluster, host or self.host, envelope, f"/gov/members/{path}{VERSION}")

    def send(self, who: Identity, kind: str, path: str, payload: Any = b"", **about: Any) -> Answer:
        """Sign something and send it."""
        return self.post(path, self.sign(who, kind, payload, **about))

    def activate(self, who: Identity) -> None:
        """Have a member acknowledge the state."""
        digest = json.loads(self.send(who, "state_digest", f"state-digests/{id_of(who)}:update").body)["stateDigest"]
        assert self.send(who, "ack", f"state-digests/{id_of(who)}:ack", {"stateDigest": digest}).status == 204

    def propose(self, who: Identity, *actions: Any) -> Answer:
        """Propose actions, as (name, arguments)."""
        return self.send(who, "proposal", "proposals:create", {"actions": [{"name": name, "args": args} for name, args in actions]})

    def vote(self, who: Identity, proposal_id: str, ballot: str = YES) -> Answer:
        """Vote."""
        path = f"proposals/{proposal_id}/ballots/{id_of(who)}:submit"
        return self.send(who, "ballot", path, {"ballot": ballot}, proposal_id=proposal_id)

    def carry(self, *actions: Any) -> Answer:
        """Propose actions and have two members vote for them; the last answer."""
        answer = self.propose(self.members[0], *actions)
        proposal_id = shown(answer)["proposalId"]
        for who in self.members[:2]:
            answer = self.vote(who, proposal_id)
        return answer

    def open(self) -> None:
        """Open the service."""
        assert shown(self.carry(opening(self)))["proposalState"] == "Accepted"

    def read(self, path: str) -> Any:
        """What anybody may read of governance."""
        return json.loads(self.cluster.client(self.host).ask("GET", f"/gov/{path}{VERSION}").body)

    def row(self, name: str, key: bytes = tables.SINGLETON) -> Any:
        """A record of the state."""
        serving: Any = self.host.enclave._serving
        value = serving._replica.store.get(name, key)
        return None if value is None else tables.decode(value)


def shown(answer: Answer) -> dict[str, Any]:
    """The JSON of an answer that is 200."""
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def code(answer: Answer) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status, json.loads(answer.body)["error"]["code"]


def opening(consortium: Consortium) -> tuple[str, dict[str, str]]:
    """The action that opens the service."""
    return "transition_service_to_open", {"next_service_identity": consortium.row(tables.SERVICE_INFO)["cert"]}
