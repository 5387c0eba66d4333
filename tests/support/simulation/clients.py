"""Clients of a simulated service: what they ask, how they read the answers, what they remember; everything goes into a `History`.

Each waits for one answer at a time, unless it hangs up. What to ask, of whom, and when, is the driver's choice; a request is repeated with
the same token and key, as the SDK does it. Not here: how bytes get to a node (`replica_world`, `complete_world`).
"""

import base64
import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, NamedTuple

from ledgerd.ledger.ids import parse_transaction_id
from support.histories import Call, History, Id, Outcome
from support.linearizability import Value
from support.simulation.application import KEYS
from support.simulation.violation import Violation

READS: Final = ("get", "all")
WRITES: Final = ("put", "swap", "both", "delete", "claim")
FAILURES: Final = ("refuse", "fail")
MARKED: Final = (*WRITES, *FAILURES)  # those whose token says whose they are


class Want(NamedTuple):
    """One request: what to do with which registers (or which transaction), under which token, with which preference and idempotency key."""

    what: str
    one: str
    other: str
    token: str
    prefer: str
    key: str


class Asked(NamedTuple):
    """A request as bytes will say it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def ask(want: Want) -> Asked:
    """Print a request."""
    what, one, other, token, prefer, key = want
    headers = {"prefer": prefer} if prefer else {}
    if key:
        headers["idempotency-key"] = key
    if what == "status":
        return Asked("GET", f"/app/tx?transaction_id={one}", headers, b"")
    if what == "receipt":
        return Asked("GET", f"/app/receipt{other}?transaction_id={one}", headers, b"")
    if what == "commit":
        return Asked("GET", "/node/commit", headers, b"")
    if what in READS:
        return Asked("GET", "/app/all" if what == "all" else f"/app/get/{one}", headers, b"")
    if what == "delete":
        return Asked("DELETE", f"/app/delete/{one}", headers, b"")
    headers["content-type"] = "text/plain"
    path = f"/app/both/{one}/{other}" if what == "both" else f"/app/{what}/{one}"
    return Asked("PUT" if what == "put" else "POST", path, headers, token.encode())


def effect(want: Want) -> dict[str, Value]:
    """What a request writes if it takes effect."""
    if want.what not in WRITES:
        return {}
    if want.what == "delete":
        return {want.one: None}
    return {want.one: want.token, want.other: want.token} if want.what == "both" else {want.one: want.token}


class Client:
    """One client.

    Attributes:
        number: Of its last request, so that an answer to an earlier one is known as such.
        want, call: What it waits for; None if for nothing.
        seen: The last id that it has seen.
        unsure: Requests that it does not know the fate of.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = 0
        self.want: Want | None = None
        self.call: Call | None = None
        self.asked_at = 0.0
        self.seen: Id = (2, 1)
        self.unsure: list[Want] = []


class Clients:
    """All clients of one world.

    Args:
        send: Carries a request of a client to a node; False if it cannot.
        count: How many.

    Attributes:
        history: What they all saw.
        claims: Tokens that are to be the claims of their transactions.
    """

    def __init__(self, send: Callable[[Client, str, Asked], bool], count: int) -> None:
        self.all = {f"c{number}": Client(f"c{number}") for number in range(1, count + 1)}
        self.history = History()
        self.claims: set[str] = set()
        self._send = send
        self._moment = 0.0

    def now(self) -> float:
        """A later moment than every one before."""
        self._moment += 1
        return self._moment

    def call(self, name: str, node: str, want: Want) -> bool:
        """A client asks a node; it does nothing if it waits for something already."""
        client = self.all.get(name)
        if client is None or client.want is not None:
            return False
        client.number += 1
        client.want = want
        client.asked_at = self.now()
        client.call = None
        if want.what in WRITES or want.what in READS or want.what in FAILURES:
            if want.what == "claim":
                self.claims.add(want.token)
            key = want.key if _is_dated(want.key) else None
            client.call = self.history.invoke(
                name, client.asked_at, node, writes=effect(want), key=key, token=want.token if want.what in MARKED else None
            )
        if not self._send(client, node, ask(want)):
            if client.call is not None:
                client.call.end(Outcome.REFUSED, self.now())
            client.want = client.call = None
            return False
        return True

    def hang_up(self, name: str) -> bool:
        """A client does not wait any longer, and does not know what became of its request."""
        client = self.all.get(name)
        if client is None or client.want is None:
            return False
        if _is_dated(client.want.key):
            client.unsure.append(client.want)
        client.want = client.call = None
        client.number += 1
        return True

    def answered(self, name: str, number: int, node: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """An answer arrives.

        Raises: Violation: It is none that this service gives.
        """
        client = self.all[name]
        want = client.want
        if number != client.number or want is None:
            return
        now = self.now()
        call, client.want, client.call = client.call, None, None
        transaction = _transaction(headers)
        if transaction is not None:
            client.seen = max(client.seen, transaction)
        if call is None:
            self._looked(client, want, node, now, status, body)
            return
        outcome, reads = judge(want, status, headers, body)
        if outcome is Outcome.EXECUTED and want.prefer and not want.prefer.startswith("receipt"):
            outcome = Outcome.UNKNOWN if call.writes else outcome
        receipt = headers.get("x-ledgerd-receipt")
        if want.what == "delete" and status == 404:
            call.writes, call.token, call.key = {}, None, None  # it found nothing to remove: it has read, and no more
        elif want.what == "delete" and outcome in (Outcome.UNKNOWN, Outcome.ROLLED_BACK):
            transaction = None  # perhaps only of what it has seen
        call.end(outcome, now, transaction=transaction, reads=reads, receipt=base64.b64decode(receipt) if receipt else None)
        if outcome is Outcome.UNKNOWN and _is_dated(want.key):
            client.unsure.append(want)

    def _looked(self, client: Client, want: Want, node: str, now: float, status: int, body: bytes) -> None:
        """It asked about a transaction."""
        if status != 200:
            return
        if want.what == "receipt":
            if want.other == "/cose":
                self.history.receipts.append((_id(want.one), body))
            return
        shown = json.loads(body)
        if want.what == "commit":
            if shown["transaction_id"] != "0.0":
                self.history.saw(node, client.asked_at, now, _id(shown["transaction_id"]), "Committed")
        else:
            self.history.saw(node, client.asked_at, now, _id(want.one), shown["status"])

    # For the driver.

    def draw(self, chance: Random, nodes: list[str]) -> tuple[Any, ...] | None:
        """A `call` event of a client that waits for nothing; None if all do, or there is nobody to ask."""
        idle = [client for client in self.all.values() if client.want is None]
        if not idle or not nodes:
            return None
        client = idle[int(chance.random() * len(idle))]
        node = nodes[int(chance.random() * len(nodes))]
        draw = chance.random()
        if draw < 0.06 and client.unsure:
            want = client.unsure.pop(int(chance.random() * len(client.unsure)))
        elif draw < 0.20:
            want = self._look(client, chance)
        else:
            want = self.make(
                client, chance, chance.choice(READS) if draw < 0.45 else chance.choice(WRITES) if draw < 0.96 else chance.choice(FAILURES)
            )
        return ("call", client.name, node, *want)

    def make(self, client: Client, chance: Random, what: str, prefer: str | None = None) -> Want:
        """A new request."""
        one, other = chance.sample(KEYS, 2)
        token = f"{client.name}.{client.number + 1}"
        if prefer is None:
            draw = chance.random()
            prefer = "committed" if draw < 0.62 else "" if draw < 0.82 else "receipt" if draw < 0.92 else "committed, wait=1"
        key = ""
        if what in WRITES and chance.random() < 0.6:
            key = f"{client.seen[0]}.{client.seen[1]}/{token}" if chance.random() < 0.9 else f"opaque-{token}"
        return Want(what, one, other, token, prefer, key)

    def _look(self, client: Client, chance: Random) -> Want:
        calls = [call for call in self.history.calls[-40:] if call.transaction is not None]
        doubtful = [call for call in calls if call.outcome is not Outcome.COMMITTED and call.writes]
        if not calls or chance.random() < 0.12:
            return Want("commit", "", "", "", "", "")
        call = chance.choice(doubtful) if doubtful and chance.random() < 0.6 else chance.choice(calls)
        assert call.transaction is not None
        view, seqno = call.transaction
        if chance.random() < 0.6:
            return Want("status", f"{view}.{seqno}", "", "", "", "")
        return Want("receipt", f"{view}.{seqno}", "/cose" if chance.random() < 0.8 else "", "", "", "")

    def probes(self, chance: Random, node: str) -> list[tuple[Any, ...]]:
        """Events: some clients give up what they wait for, ask again for it, or ask what became of what was done lately."""
        events: list[tuple[Any, ...]] = []
        for client in self.all.values():
            want = None
            if client.want is not None:
                if chance.random() < 0.5:
                    continue
                events.append(("hangup", client.name))
                if _is_dated(client.want.key) and chance.random() < 0.7:
                    want = client.want
            elif client.unsure and chance.random() < 0.7:
                want = client.unsure.pop(int(chance.random() * len(client.unsure)))
            if want is None:
                want = self._look(client, chance)
            events.append(("call", client.name, node, *want))
        return events

    def trouble(self, chance: Random, nodes: list[str]) -> tuple[Any, ...] | None:
        """Hang up; or use a key twice, for another request."""
        waiting = [client for client in self.all.values() if client.want is not None]
        if waiting and chance.random() < 0.7:
            return ("hangup", chance.choice(waiting).name)
        # A key is its caller's own.
        keyed = [call for call in self.history.calls[-30:] if call.key is not None and self.all[call.client].want is None]
        if not keyed or not nodes:
            return None
        call = chance.choice(keyed)
        want = self.make(self.all[call.client], chance, chance.choice(("put", "swap", "both", "claim")))
        assert call.key is not None
        return ("call", call.client, chance.choice(nodes), *want._replace(key=call.key))


def judge(want: Want, status: int, headers: Mapping[str, str], body: bytes) -> tuple[Outcome, dict[str, Value]]:
    """What an answer to a request of the application means, and what it read.

    Raises: Violation: No node gives such an answer.
    """
    transaction = headers.get("x-ms-ccf-transaction-id")
    code = "" if status < 400 else json.loads(body)["error"]["code"]
    waited = headers.get("preference-applied") == "committed"
    if want.what in FAILURES:
        if status < 300 and status != 202:  # 202: what it has seen is not committed in time
            raise Violation("RefusedIsRefused", f"{want} was answered {status}")
        return Outcome.REFUSED, {}
    if status in (200, 204) or (status == 404 and code == "ResourceNotFound"):
        if transaction is None:
            raise Violation("AnswerHasItsVersion", f"{want} was answered {status} without a transaction id")
        return Outcome.COMMITTED if waited else Outcome.EXECUTED, _reads(want, status, body)
    if code == "TransactionInvalid":
        return Outcome.ROLLED_BACK, {}
    if status == 202 or code in ("OutcomeUnknown", "AnswerTooLarge"):
        return Outcome.UNKNOWN, {}
    if status in (307, 422, 503) or code == "FrontendNotOpen":
        return Outcome.REFUSED, {}
    raise Violation("KnownAnswer", f"{want} was answered {status} {code} {body[:200]!r}")


def _reads(want: Want, status: int, body: bytes) -> dict[str, Value]:
    if status == 404:
        return {want.one: None}
    if want.what in ("swap", "both", "all"):
        reads: dict[str, Value] = json.loads(body)
        return reads
    return {want.one: body.decode()} if want.what in ("get", "delete") else {}


def _is_dated(key: str) -> bool:
    """Whether a key protects for ever; any other one does so for a window, so a careful client does not repeat a request under it."""
    return "/" in key


def _transaction(headers: Mapping[str, str]) -> Id | None:
    text = headers.get("x-ms-ccf-transaction-id")
    return None if text is None else _id(text)


def _id(text: str) -> Id:
    view, seqno = parse_transaction_id(text)
    return view, seqno
