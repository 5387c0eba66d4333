"""What the SDK's two faces share: one client's identity, nodes and budget, and what each of its methods does as steps to be driven.

Not here: the methods themselves (`client.client`), what is tried when (`client.attempts`, `client.bulk`), bytes and sockets
(`client.session`, `client.pipeline`).
"""

import random
import secrets
import ssl
import time
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ledgerd.ledger import receipt as receipts
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id
from ledgerd.ledger.receipt import VerifiedReceipt
from ledgerd.network.client.attempts import STATUS_PATH, Attempting, Pause, Steps, attempts, submission
from ledgerd.network.client.bulk import Bulk
from ledgerd.network.client.errors import RetryBudgetExhausted, TransactionInvalid
from ledgerd.network.client.identity import ALPN_HTTP, Credentials, ServiceIdentity, read_identity, tls_context
from ledgerd.network.client.learning import learn_nodes
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import Answer, Budget, Call

if TYPE_CHECKING:
    from ledgerd.network.client import trust
    from ledgerd.network.client.trust import Line, Root

File: TypeAlias = str | PathLike[str]


class Core:
    """Identity, nodes, budget of one client; and every request as steps to be driven."""

    def __init__(
        self,
        urls: Iterable[str] | str,
        service_certificate: File | ServiceIdentity,
        credentials: tuple[File, File] | None,
        budget: Budget,
    ) -> None:
        self.identity: Final = read_identity(service_certificate)
        self.nodes: Final = nodes_of(urls)
        self.credentials: Final = None if credentials is None else Credentials(fspath(credentials[0]), fspath(credentials[1]))
        self.shared: Final = Attempting(budget, time.monotonic, random.random, secrets.token_urlsafe)  # jitter needs no secrecy
        self.service_key: Final = receipts.public_key(receipts.load_certificate(self.identity.certificate))
        self._contexts = {ALPN_HTTP: tls_context(self.identity, self.credentials, ALPN_HTTP)}

    def context(self, alpn: str) -> ssl.SSLContext:
        """TLS for connections that are to speak this protocol; one for all of them."""
        found = self._contexts.get(alpn)
        return found or self._contexts.setdefault(alpn, tls_context(self.identity, self.credentials, alpn))

    def submit(
        self,
        method: str,
        path: str,
        body: bytes | str,
        headers: Mapping[str, str] | None,
        *,
        commit: bool,
        receipt: bool,
        key: str | None,
        make_key: bool,
    ) -> Steps:
        """Submit a transaction; verify the receipt where one is asked for."""
        call = _call(method, path, body, headers)
        yield from learn_nodes(self.nodes, self.shared)
        answer = yield from submission(call, self.nodes, self.shared, key=key, make_key=make_key, commit=commit or receipt, receipt=receipt)
        if receipt:
            carried = answer.receipt
            if carried is None:
                raise FormatError(f"{call.method} {call.path}: the answer carries no receipt, though one was asked for")
            self.verify_receipt(carried, answer.transaction_id)
        return answer

    def get(self, path: str, headers: Mapping[str, str] | None, *, committed: bool) -> Steps:
        """Read."""
        call = _call("GET", path, b"", headers)
        yield from learn_nodes(self.nodes, self.shared)
        return (yield from self._ask(call, committed=committed))

    def status(self, transaction_id: TransactionId | str) -> Steps:
        """Ask one node for a transaction's status; `status_of` reads the answer."""
        return self._ask(_status_call(_id(transaction_id)))

    def receipt(self, transaction_id: TransactionId | str, form: str) -> Steps:
        """Wait for a receipt, and verify it."""
        if form not in ("cose", "json"):
            raise ConfigurationError(f"a receipt is cose or json, not {form!r}")
        wanted = _id(transaction_id)
        path = "/node/receipt/cose" if form == "cose" else "/node/receipt"  # an application may have a /receipt of its own
        try:
            answer = yield from self._ask(Call("GET", f"{path}?transaction_id={wanted}"), waits=True)
        except RetryBudgetExhausted as error:
            raise RetryBudgetExhausted(error.attempts, error.seconds, error.last, f"there was no receipt of {wanted}") from None
        self.verify_receipt(answer.body, wanted)
        return answer

    def verify_receipt(self, receipt: bytes, expected: TransactionId | str | None, claims_digest: bytes | None = None) -> VerifiedReceipt:
        """Verify a receipt, in either form, against the pinned identity."""
        wanted = None if expected is None else _id(expected)
        if receipt[:1] == b"{":
            return receipts.verify_json(receipt, self.identity.certificate, expected=wanted, claims_digest=claims_digest)
        return receipts.verify_cose(receipt, self.service_key, claims_digest, expected=wanted)

    def wait_for_commit(self, transaction_id: TransactionId | str) -> Steps:
        """Ask for the status until it is final."""
        wanted = _id(transaction_id)
        deadline, pause = self._deadline(), self.shared.budget.pause_seconds
        tries = 0
        status = ""
        while self.shared.clock() < deadline:
            tries += 1
            answer = yield from attempts(_status_call(wanted), self.nodes, self.shared, deadline=deadline)
            status = status_of(answer)
            if status == "Committed":
                return answer
            if status == "Invalid":
                raise TransactionInvalid(f"transaction {wanted} was rolled back, or never can be", wanted)
            yield Pause(min(pause, max(0.0, deadline - self.shared.clock())))
            pause = min(2 * pause, self.shared.budget.pause_seconds_max)
        what = f"{wanted} was not committed"
        raise RetryBudgetExhausted(
            tries, self.shared.budget.seconds, f"it is {status or 'unknown'} still; wait longer, or look at the id", what
        )

    def bulk(self, calls: Iterable[Call], window: int, commit: bool, idempotent: bool) -> Bulk:
        """The state of a `submit_many`."""
        if window < 1:
            raise ConfigurationError(f"a window of {window} requests lets none be sent")
        return Bulk(calls, self.nodes, self.shared, window=window, commit=commit, make_keys=idempotent)

    def _ask(self, call: Call, *, committed: bool = False, waits: bool = False) -> Steps:
        return attempts(call, self.nodes, self.shared, deadline=self._deadline(), commit=committed, waits=waits)

    def _deadline(self) -> float:
        return self.shared.clock() + self.shared.budget.seconds


def trusting(
    urls: Iterable[str] | str,
    measurements: Iterable["Line"],
    roots: Iterable["Root"] | None,
    genesis: str | None,
    configuration: Mapping[str, Any] | None,
    budget: Budget,
) -> "trust.Steps":
    """First trust, as steps to be driven, for a nonce made here and now."""
    from ledgerd.network.client import trust  # noqa: PLC0415 (whoever pins a certificate needs nothing of attestation)

    policy = trust.policy_of(roots, measurements)
    nonce = secrets.token_bytes(trust.NONCE_SIZE_BYTES)
    origins = nodes_of(urls).origins
    return trust.steps(origins, policy, nonce=nonce, now_ms=_now_ms, genesis=genesis, configuration=configuration, budget=budget)


def nodes_of(urls: Iterable[str] | str) -> Nodes:
    """One URL or several. Raises: ConfigurationError."""
    return Nodes([urls] if isinstance(urls, str) else urls)


def status_of(answer: Answer) -> str:
    """Read the status out of an answer of `GET /tx`. Raises: FormatError: It has none."""
    document = answer.json()
    status = document.get("status") if isinstance(document, dict) else None
    if status not in ("Unknown", "Pending", "Committed", "Invalid"):
        raise FormatError(f"the service calls a transaction {status!r}; it must be Unknown, Pending, Committed or Invalid")
    return str(status)


def _status_call(transaction_id: TransactionId) -> Call:
    return Call("GET", f"{STATUS_PATH}{transaction_id}")


def _call(method: str, path: str, body: bytes | str, headers: Mapping[str, str] | None) -> Call:
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise ConfigurationError(f"path {path[:80]!r} does not start with /, or is not percent-encoded")
    return Call(method.upper(), path, body.encode() if isinstance(body, str) else body, headers or {})


def _id(transaction_id: Any) -> TransactionId:
    return transaction_id if isinstance(transaction_id, TransactionId) else parse_transaction_id(str(transaction_id))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
