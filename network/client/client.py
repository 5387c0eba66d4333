"""The SDK as seen from threads: `Client`. `client.asynchronous` has the same methods, with the same promises, for trio and asyncio tasks.

    with Client(["https://127.0.0.1:8000"], service_certificate="common/service_cert.pem", credentials=(cert, key)) as client:
        answer = client.submit("PUT", "/app/records/42", b"hello", headers={"content-type": "text/plain"})
        print(answer.transaction_id, "is committed")

Laws: every connection ends at the pinned service identity; nothing is believed for having come back with status 200 that can be proven.
Not here: what the methods do (`client.core`), bytes (`client.session`, `client.blocking`).
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ledgerd.ledger.ids import TransactionId
from ledgerd.ledger.receipt import VerifiedReceipt
from ledgerd.network.client.attempts import Result, Send, Steps
from ledgerd.network.client.blocking import run_bulk
from ledgerd.network.client.core import Core, File, status_of, trusting
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.identity import ALPN_HTTP, ALPN_PIPELINED, ServiceIdentity
from ledgerd.network.client.values import Answer, Budget, Call

if TYPE_CHECKING:
    from ledgerd.network.client.session import SyncHttp
    from ledgerd.network.client.trust import Line, Root, Trusted

WINDOW_DEFAULT: Final = 64
BUDGET_DEFAULT: Final = Budget()


class Face:
    """What is the same in both clients."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.attestation: Trusted | None = None

    @property
    def identity(self) -> ServiceIdentity:
        """The pinned identity."""
        return self._core.identity

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes known so far."""
        return self._core.nodes.origins

    def verify_receipt(
        self, receipt: bytes, *, transaction_id: TransactionId | str | None = None, claims_digest: bytes | None = None
    ) -> VerifiedReceipt:
        """Verify a receipt of this service offline.

        Raises: IntegrityError, FormatError: It does not verify.
        """
        return self._core.verify_receipt(receipt, transaction_id, claims_digest)


class Client(Face):
    """A service as seen from threads; may be shared between them. Close it, or use it in `with`.

    Args:
        urls: One or more nodes, `https://HOST:PORT`. Others are learnt from redirects.
        service_certificate: The pinned identity: a PEM file, PEM text, or what `trust` returned.
        credentials: Certificate and key files (PEM) of the user or member who asks; None asks as nobody.
        budget: Limits of each request; see `Budget`.
    Raises: ConfigurationError: Something of this cannot be used.
    """

    def __init__(
        self,
        urls: Iterable[str] | str,
        *,
        service_certificate: File | ServiceIdentity,
        credentials: tuple[File, File] | None = None,
        budget: Budget = BUDGET_DEFAULT,
    ) -> None:
        super().__init__(Core(urls, service_certificate, credentials, budget))
        self._http: SyncHttp | None = None
        self._opening = threading.Lock()

    @classmethod
    def trust(
        cls,
        urls: Iterable[str] | str,
        *,
        measurements: Iterable["Line"],
        roots: Iterable["Root"] | None = None,
        genesis: str | None = None,
        configuration: Mapping[str, Any] | None = None,
        credentials: tuple[File, File] | None = None,
        budget: Budget = BUDGET_DEFAULT,
    ) -> "Client":
        """Verify a node's attestation, made for our own nonce, and pin the service identity that it binds.

        Args:
            urls: As for the client; the first that answers is asked.
            measurements: Images that may run: PCR0, PCR1, PCR2 in hex.
            roots: Attestation roots (PEM text or files); None: AWS's alone.
            genesis: Hex digest of the service's first entry, where known: distinguishes it from others that run the same image.
            configuration: Values that the service's configuration must have, such as `{"heartbeat_ms": 100}`; see docs/formats/join.md.
            credentials, budget: As for the client.
        Returns: A client; `client.attestation` says what was verified, and whether it was SIMULATED.
        Raises: AttestationError, ServiceIdentityMismatch: refused. RetryBudgetExhausted: Nobody answered.
        """
        from ledgerd.network.client.session import fetch  # noqa: PLC0415 (httpx; see there)

        trusted = fetch(trusting(urls, measurements, roots, genesis, configuration, budget), budget)
        client = cls(urls, service_certificate=trusted.identity, credentials=credentials, budget=budget)
        client.attestation = trusted
        return client

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            self._http.close()

    def submit(
        self,
        method: str,
        path: str,
        body: bytes | str = b"",
        *,
        headers: Mapping[str, str] | None = None,
        commit: bool = True,
        receipt: bool = False,
        idempotency_key: str | None = None,
        idempotent: bool = True,
    ) -> Answer:
        """Submit a transaction; it is executed at most once, whatever the network does, and by default the answer comes at commit.

        Args:
            method: Verb.
            path: With query, for example `/app/records/42`.
            body: Bytes, or text to be sent as UTF-8.
            headers: Further headers, lower-case names; `content-type` is yours to give.
            commit: False: answer when executed, which a change of primary may still undo.
            receipt: Have the COSE receipt in the answer, verified.
            idempotency_key: Your own key, to repeat a request across restarts of your program.
            idempotent: False: send no key, and never repeat what may have been executed.
        Raises:
            RequestRefused: The service says no.
            TransactionInvalid: Rolled back each time within the budget; it did not happen.
            OutcomeUnknown: It may have happened.
            RetryBudgetExhausted: It did not happen; nobody took it.
            ServiceIdentityMismatch: No node belongs to the pinned service.
            IntegrityError, FormatError: The receipt does not verify.
        """
        steps = self._core.submit(method, path, body, headers, commit=commit, receipt=receipt, key=idempotency_key, make_key=idempotent)
        return self._drive(steps)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None, committed: bool = False) -> Answer:
        """Read. By default serialisable and at once; with `committed` linearizable, and nothing that it saw can be undone.

        Raises: As `submit`, but for `TransactionInvalid`.
        """
        return self._drive(self._core.get(path, headers, committed=committed))

    def status(self, transaction_id: TransactionId | str) -> str:
        """Ask one node: Unknown, Pending, Committed or Invalid; the last two are final."""
        return status_of(self._drive(self._core.status(transaction_id)))

    def wait_for_commit(self, transaction_id: TransactionId | str) -> None:
        """Return when it is committed. Raises: TransactionInvalid: It never will be. RetryBudgetExhausted: Not yet."""
        self._drive(self._core.wait_for_commit(transaction_id))

    def receipt(self, transaction_id: TransactionId | str, *, form: str = "cose") -> bytes:
        """Get a receipt, `cose` or `json`, verified against the pinned identity; waits until there is one.

        Raises: IntegrityError, FormatError: It does not verify. Otherwise as `get`.
        """
        return self._drive(self._core.receipt(transaction_id, form)).body

    def submit_many(
        self, calls: Iterable[Call], *, window: int = WINDOW_DEFAULT, commit: bool = True, idempotent: bool = True
    ) -> Iterator[tuple[int, Answer | ClientError]]:
        """Submit many transactions over one pipelined connection (`ledgerd/1`), up to `window` at a time.

        Yields: (index of the call, its answer or its error), as they come. The promises of `submit` hold for each.
        Raises: ServiceIdentityMismatch: No node belongs to the pinned service.
        """
        bulk = self._core.bulk(calls, window, commit, idempotent)
        context = self._core.context(ALPN_PIPELINED)
        return run_bulk(bulk, context)

    def _session(self) -> "SyncHttp":
        with self._opening:  # by whichever thread comes first
            if self._http is None:
                from ledgerd.network.client.session import SyncHttp  # noqa: PLC0415 (httpx; see there)

                self._http = SyncHttp(self._core.context(ALPN_HTTP))
            return self._http

    def _drive(self, steps: Steps) -> Answer:
        result: Result = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            if isinstance(step, Send):
                result = (self._http or self._session()).send(step)
            else:
                time.sleep(step.seconds)
                result = None
