"""The one member of a simulated consortium: has the ledger's secret changed, by proposals and ballots, as the constitution has it.

It does one thing at a time, as clients do: proposes, or votes for what it proposed if it was told its name. What it was told is kept, to be
judged at the end. Not here: how bytes get to a node (`complete_world`).
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from random import Random
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledgerd.governance import constitution, requests, tables
from ledgerd.ledger.ids import parse_transaction_id
from support.histories import Id
from support.simulation.clients import Asked
from support.simulation.invariants import rule, violation
from support.simulation.observation import Registry
from support.simulation.platform import BEGAN
from support.simulation.violation import Violation

NAME: Final = "member"
REKEY: Final[dict[str, Any]] = {"actions": [{"name": "trigger_ledger_rekey", "args": {}}]}
BALLOT: Final[dict[str, Any]] = {"ballot": "export function vote (proposal, proposerId) { return true; }"}
_VERSION: Final = "api-version=2024-07-01"
# What a member may be told instead of what it wants, on an honest service where primaries change and what they did is undone.
_REFUSALS: Final = {
    (307, "NodeRetired"),
    (400, "ProposalNotOpen"),
    (400, "ProposalCreatedTooLongAgo"),
    (404, "ProposalNotFound"),
    (409, "TransactionInvalid"),
    (503, "FrontendNotOpen"),
    (503, "NodeNotCommitted"),
    (503, "PrimaryNotFound"),
    (503, "TooManyPendingTransactions"),
}


@lru_cache(maxsize=1)
def identity() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The member's key and certificate: the same in all worlds of a process, as the platform is."""
    key = ec.derive_private_key(Random("member").getrandbits(255), ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    began = datetime.fromtimestamp(BEGAN, UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    dated = builder.not_valid_before(began - timedelta(days=1)).not_valid_after(began + timedelta(days=365))
    return key, dated.sign(key, hashes.SHA256(), ecdsa_deterministic=True)


@lru_cache(maxsize=1)
def consortium() -> dict[str, Any]:
    """What a new service is told of its member, and of how it decides: by the constitution that is the default."""
    folder = files("ledgerd.governance.constitution")
    text = constitution.join(constitution.BY_VOTE, lambda name: folder.joinpath(name).read_text("utf-8"))
    certificate = identity()[1].public_bytes(Encoding.PEM).decode()
    return {"members": [{"certificate": certificate, "data": None}], "constitution": text}


class Told(NamedTuple):
    """What the member was told of a vote that decided: the id of its transaction, and whether that was said to be committed."""

    transaction: Id
    is_committed: bool


class Member:
    """The member.

    Attributes:
        open: The name of its proposal that is not decided, as far as it knows; None if there is none.
        asked: What it waits for: `propose` or `vote`; None if for nothing.
        told: Of what was decided.
    """

    name = NAME

    def __init__(self) -> None:
        self.open: str | None = None
        self.asked: str | None = None
        self.told: list[Told] = []
        self._signed_at = int(BEGAN) - 1_000_000

    def next(self, prefer: str) -> Asked:
        """What it asks next: a vote for its proposal, or another proposal."""
        key, certificate = identity()
        self._signed_at += 1
        proposal = self.open
        if proposal is None:
            self.asked, kind, path, payload = "propose", requests.PROPOSAL, "/gov/members/proposals:create", REKEY
        else:
            path = f"/gov/members/proposals/{proposal}/ballots/{requests.member_id_of(certificate)}:submit"
            self.asked, kind, payload = "vote", requests.BALLOT, BALLOT
        body = requests.sign(key, certificate, kind, json.dumps(payload).encode(), created_at=self._signed_at, proposal_id=proposal)
        headers = {"content-type": requests.CONTENT_TYPE} | ({"prefer": prefer} if prefer else {})
        return Asked("POST", f"{path}?{_VERSION}", headers, body)

    def give_up(self) -> None:
        """It does not wait any longer, and does not know what became of it: it proposes anew."""
        self.asked = self.open = None

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """An answer arrives.

        Raises: Violation: It is none that an honest service gives.
        """
        asked, self.asked = self.asked, None
        before, self.open = self.open, None
        if status == 202:
            return
        shown = json.loads(body)
        if status != 200:
            code = shown["error"]["code"]
            if code == "OutcomeUnknown":
                return
            if (status, code) not in _REFUSALS:
                raise Violation("KnownAnswer", f"the member, who wants to {asked}, was answered {status} {body[:300]!r}")
            if status == 503:
                self.open = before
            return
        state = shown["proposalState"]
        if state == tables.OPEN and asked == "propose":
            self.open = shown["proposalId"]
        elif state == tables.ACCEPTED and asked == "vote":
            view, seqno = parse_transaction_id(headers["x-ms-ccf-transaction-id"])
            self.told.append(Told((view, seqno), headers.get("preference-applied") == "committed"))
        else:
            raise Violation("KnownAnswer", f"the member, who wants to {asked}, was answered that its proposal is {state}")


@rule
def what_is_decided_is_done(told: Told, registry: Registry) -> None:
    """A decision to change the secret is an entry that announces one, and one that was called committed is in the ledger."""
    view, seqno = told.transaction
    fact = registry.facts.get(told.transaction)
    if fact is None or not fact.meaning.rekeys:
        raise violation(what_is_decided_is_done, f"{view}.{seqno} was said to change the ledger's secret, and does not")
    if told.is_committed and registry.final[seqno : seqno + 1] != [view]:
        raise violation(what_is_decided_is_done, f"{view}.{seqno} was said to be committed, and is not in the ledger")
