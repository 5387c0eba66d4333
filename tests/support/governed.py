"""One node's `/gov` without consensus: members whose keys tests have, and tables that hold what tests put there."""

import json
from collections.abc import Mapping
from typing import Any

from ledgerd.enclave.governing import recovery
from ledgerd.enclave.governing.acks import Acknowledgement
from ledgerd.enclave.governing.calls import GovernanceCalls
from ledgerd.enclave.governing.engine import Engine
from ledgerd.enclave.governing.proposals import KnownProposals
from ledgerd.enclave.governing.renewal import Renewal
from ledgerd.enclave.governing.service import ServiceState
from ledgerd.enclave.keys import ServiceKeys, at_milliseconds, create_service_key, create_service_keys
from ledgerd.enclave.ledger_secrets import LedgerSecret
from ledgerd.enclave.requests import Response
from ledgerd.enclave.scripts.run import Call
from ledgerd.governance import requests, tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View
from ledgerd.ledger.subject import parse_subject
from support.cluster import SANDBOX, Identity, make_identity
from support.executing import Node, error_of
from support.members import SIGNED_AT

VERSION = "?api-version=2024-07-01"
DIGEST = "5a" * 32
ALICE, BOB, CAROL = (make_identity(name) for name in ("alice", "bob", "carol"))


def id_of(identity: Identity) -> str:
    """A member's name."""
    return requests.member_id_of(identity.certificate)


def member_rows(members: Mapping[str, Identity], status: str = tables.ACTIVE) -> WriteSet:
    """What a genesis writes of these members; `member_data` is the name."""
    return {
        tables.MEMBER_CERTS: {id_of(identity).encode(): identity.pem.encode() for identity in members.values()},
        tables.MEMBER_INFO: {
            id_of(identity).encode(): tables.encode({"status": status, "member_data": name}) for name, identity in members.items()
        },
    }


class Governed(Node):
    """A node whose active members are alice and bob; carol has not acknowledged yet."""

    def __init__(self, constitution: str = SANDBOX) -> None:
        super().__init__()
        self.logs: list[str] = []
        KnownProposals(self, Engine(self, Renewal(self).complete)).add_to(self.gov)
        Acknowledgement(self, Renewal(self)).add_to(self.gov)
        ServiceState(self).add_to(self.gov)
        recovery.add_to(self.gov)
        self.put(member_rows({"alice": ALICE, "bob": BOB}))
        self.put(member_rows({"carol": CAROL}, tables.ACCEPTED))
        self.put({tables.CONSTITUTION: {tables.SINGLETON: tables.encode(constitution)}})

    # What endpoints ask of their node.

    @property
    def committed(self) -> TransactionId:
        return TransactionId(View(2), Seqno(1))

    @property
    def now_ms(self) -> int:
        return SIGNED_AT * 1000

    @property
    def service(self) -> ServiceKeys:
        return self._service

    def secrets(self) -> list[LedgerSecret]:
        return [LedgerSecret(1, bytes(32))]

    def calls(self) -> dict[str, Call]:
        self._service = create_service_keys(create_service_key("secp256r1"), at_milliseconds(self.now_ms), parse_subject("CN=Test"))
        return GovernanceCalls(self, Renewal(self)).calls

    @property
    def committed_seqno(self) -> Seqno:
        return self.committed.seqno

    @property
    def is_settled(self) -> bool:
        return True

    @property
    def live_nodes(self) -> frozenset[NodeId]:
        return frozenset()

    @property
    def view_history(self) -> list[TransactionId]:
        return [TransactionId(View(view), Seqno(first)) for view, first in self.views]

    def status_of(self, transaction: TransactionId) -> str:
        return "Committed" if transaction == self.committed else "Unknown"

    def log(self, level: str, text: str) -> None:
        self.logs.append(f"{level}: {text}")

    # What tests do.

    def put(self, writes: WriteSet) -> None:
        """Apply an entry."""
        self.store.apply(self.store.version + 1, writes)

    def row(self, name: str, key: str | bytes) -> Any:
        """A record as it stands in a table; None if it does not."""
        value = self.store.get(name, key.encode() if isinstance(key, str) else key)
        return None if value is None else tables.decode(value)

    def get(self, path: str, query: str = VERSION) -> Response:
        """Read `/gov` + path."""
        return self.answer("GET", f"/gov{path}{query}", caller="")

    def read(self, path: str) -> Any:
        """The JSON at `/gov` + path."""
        response = self.get(path)
        assert (response.status, response.content_type) == (200, "application/json"), response
        return json.loads(response.body)

    def post(self, path: str, envelope: bytes, query: str = VERSION, content_type: str = requests.CONTENT_TYPE) -> Response:
        """Send something signed to `/gov` + path."""
        return self.answer("POST", f"/gov{path}{query}", envelope, caller="", headers={"content-type": content_type})

    def send(self, who: Identity, kind: str, path: str, payload: Any = b"", **about: Any) -> Response:
        """Sign something and send it; a payload that is no bytes goes as JSON."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self.post(path, requests.sign(who.key, who.certificate, kind, body, created_at=SIGNED_AT, **about))


def code(response: Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status, error_of(response)["code"]


def reason(response: Response) -> str:
    """Why authentication failed."""
    text: str = error_of(response)["details"][0]["message"]
    return text
