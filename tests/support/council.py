"""A node's `/gov` for tests of the command line: the enclave's own endpoints, and beside them a stand-in for what needs scripts.

More than half of the active members decide. Proposals are verified and taken as they are, do nothing, and what they would do is what a test
has set.
"""

import json
import threading
from hashlib import sha256
from typing import Any

from ledgerd.governance import requests, tables
from ledgerd.ledger.signature import SIGNATURES
from support.cluster import Identity
from support.fake_service import FakeAnswer, FakeRequest
from support.fake_service import error as refusal
from support.governed import ALICE, BOB, CAROL, DIGEST, Governed, id_of, member_rows

MEMBERS = {id_of(identity): identity for identity in (ALICE, BOB, CAROL)}


CONSTITUTION = """
export function validate(input) { return { valid: true, description: "" }; }
export function resolve(proposal, proposerId, votes, proposalId) {
  const active = new Set();
  ccf.kv["public:ccf.gov.members.info"].forEach((value, key) => {
    if (ccf.bufToJsonCompatible(value).status === "Active") active.add(ccf.bufToStr(key));
  });
  const yes = votes.filter(({ member_id, vote }) => vote && active.has(member_id)).length;
  return 2 * yes > active.size ? "Accepted" : "Open";
}
export function apply(proposal, proposalId) {}
"""


class Council:
    """A node's `/gov`, which says that all is committed. Alice and bob are active, carol is after `activate`.

    Attributes:
        node: The tables.
        proposals: What was proposed: the bytes that were signed.
        seen: Every signed request, verified.
        effects: What the node says that a proposal would do; None: there is no such endpoint.
        asked: Requests for effects: verb, path, body.
    """

    def __init__(self) -> None:
        self.node = Governed(CONSTITUTION)
        self.sign(DIGEST)
        self.lock = threading.Lock()
        self.proposals: dict[str, bytes] = {}
        self.seen: list[requests.SignedRequest] = []
        self.effects: dict[str, Any] | None = None
        self.asked: list[tuple[str, str, bytes]] = []

    def sign(self, root: str) -> None:
        """A signature entry over another state."""
        self.node.put({SIGNATURES: {tables.SINGLETON: tables.encode({"root": root})}})

    def activate(self, identity: Identity) -> None:
        """A member that has acknowledged."""
        self.node.put(member_rows({"carol": identity}))

    def put_proposal(self, text: bytes, state: str = tables.OPEN, ballots: dict[str, str] | None = None, who: Identity = ALICE) -> str:
        """A proposal that is there already. Returns its name."""
        proposal_id = sha256(text + state.encode()).hexdigest()
        self.proposals[proposal_id] = text
        info = {"proposer_id": id_of(who), "state": state, "ballots": ballots or {}}
        self.node.put({tables.PROPOSALS: {proposal_id.encode(): text}, tables.PROPOSALS_INFO: {proposal_id.encode(): tables.encode(info)}})
        return proposal_id

    def state(self, proposal_id: str) -> str:
        """How a proposal stands."""
        return str(self.node.row(tables.PROPOSALS_INFO, proposal_id)["state"])

    def __call__(self, request: FakeRequest) -> FakeAnswer | None:
        path = request.path.partition("?")[0]
        if not path.startswith("/gov/"):
            return None
        with self.lock:
            if request.body and request.headers.get("content-type") == requests.CONTENT_TYPE:
                self._see(request.body)
            if path.endswith(("/effects", "proposals:preview")):
                self.asked.append((request.method, request.path, request.body))
                if self.effects is None:
                    return refusal(404, "ResourceNotFound", "Unknown path.")
                return FakeAnswer(200, _headers({"content-type": "application/json"}), json.dumps(self.effects).encode())
            if path == "/gov/members/proposals:create":
                return self._create(request.body)
            response = self.node.answer(request.method, request.path, request.body, caller="", headers=request.headers)
        return FakeAnswer(response.status, _headers(dict(response.headers)), response.body)

    def _see(self, body: bytes) -> None:
        signed = requests.read(body)
        requests.verify(signed, MEMBERS[signed.member_id].certificate)
        self.seen.append(signed)

    def _create(self, body: bytes) -> FakeAnswer:
        signed = requests.read(body)
        assert signed.kind == requests.PROPOSAL
        proposal_id = self.put_proposal(signed.payload, who=MEMBERS[signed.member_id])
        shown = {"proposalId": proposal_id, "proposerId": signed.member_id, "proposalState": "Open", "ballotCount": 0}
        return FakeAnswer(200, _headers({"content-type": "application/json"}), json.dumps(shown).encode())


def _headers(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "x-ms-ccf-transaction-id": "2.7", "preference-applied": "committed"}
