"""A node's `/gov` for tests of the command line: the enclave's own endpoints and our constitution, without consensus."""

import json
import threading
from typing import Any

from ledgerd.enclave.governing.effects import Effects
from ledgerd.enclave.governing.engine import Engine
from ledgerd.enclave.governing.proposing import Proposing
from ledgerd.enclave.governing.renewal import Renewal
from ledgerd.governance import requests, tables
from ledgerd.ledger.signature import SIGNATURES
from support.cluster import BY_VOTE, Identity
from support.fake_service import FakeAnswer, FakeRequest
from support.governed import ALICE, BOB, CAROL, DIGEST, Governed, id_of, member_rows

MEMBERS = {id_of(identity): identity for identity in (ALICE, BOB, CAROL)}


class Assembly(Governed):
    """A node in which members propose, too."""

    root = bytes(32)
    now_ms_is = requests.CREATED_AT_MAX * 1000  # later than what tests sign

    def __init__(self) -> None:
        super().__init__(BY_VOTE)
        engine = Engine(self, Renewal(self).complete)
        Proposing(self, engine).add_to(self.gov)
        Effects(engine).add_to(self.gov)
        config = {"recovery_threshold": 1, "recent_cose_proposals_window_size": 100}
        info = {
            "cert": "PEM",
            "status": "Open",
            "recovery_count": 0,
            "service_data": None,
            "current_service_create_txid": "2.1",
        }
        self.put(
            {
                tables.SERVICE_CONFIG: {tables.SINGLETON: tables.encode(config)},
                tables.SERVICE_INFO: {tables.SINGLETON: tables.encode(info)},
            }
        )

    @property
    def now_ms(self) -> int:
        return self.now_ms_is


class Council:
    """A node's `/gov`, which says that all is committed. Alice and bob are active, carol is not.

    Attributes:
        node: The tables.
        seen: Every signed request, verified.
        asked: Requests for effects: verb, path, body.
        effects: What the node says that a proposal would do, in place of the truth.
        caller: Who asks by a certificate; "" for nobody.
    """

    def __init__(self) -> None:
        self.node = Assembly()
        self.sign(DIGEST)
        self.lock = threading.Lock()
        self.seen: list[requests.SignedRequest] = []
        self.asked: list[tuple[str, str, bytes]] = []
        self.effects: Any = None
        self.caller = ""

    def sign(self, root: str) -> None:
        """A signature entry over another state."""
        self.node.put({SIGNATURES: {tables.SINGLETON: tables.encode({"root": root})}})

    def activate(self, name: str, identity: Identity) -> None:
        """One more member that has acknowledged."""
        self.node.put(member_rows({name: identity}))

    def put_proposal(self, text: bytes, state: str = tables.OPEN, ballots: dict[str, str] | None = None, who: Identity = ALICE) -> str:
        """A proposal that is there already. Returns its name."""
        proposal_id = f"{len(self.names()) + 1:02x}" * 32
        info = {"proposer_id": id_of(who), "state": state, "ballots": ballots or {}}
        self.node.put({tables.PROPOSALS: {proposal_id.encode(): text}, tables.PROPOSALS_INFO: {proposal_id.encode(): tables.encode(info)}})
        return proposal_id

    def names(self) -> list[str]:
        """Names of all proposals."""
        return [proposal["proposalId"] for proposal in self.node.read("/members/proposals")["value"]]

    def state(self, proposal_id: str) -> str:
        """How a proposal stands."""
        return str(self.node.row(tables.PROPOSALS_INFO, proposal_id)["state"])

    def __call__(self, request: FakeRequest) -> FakeAnswer | None:
        if not request.path.startswith("/gov/"):
            return None
        with self.lock:
            if request.headers.get("content-type") == requests.CONTENT_TYPE:
                self._see(request.body)
            if "/effects?" in request.path or ":preview?" in request.path:
                self.asked.append((request.method, request.path, request.body))
                if self.effects is not None:
                    return FakeAnswer(200, _headers({"content-type": "application/json"}), json.dumps(self.effects).encode())
            response = self.node.answer(request.method, request.path, request.body, caller=self.caller, headers=request.headers)
        return FakeAnswer(response.status, _headers(dict(response.headers)), response.body)

    def _see(self, body: bytes) -> None:
        signed = requests.read(body)
        requests.verify(signed, MEMBERS[signed.member_id].certificate)
        self.seen.append(signed)


def _headers(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "x-ms-ccf-transaction-id": "2.7", "preference-applied": "committed"}
