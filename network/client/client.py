"""The SDK's two faces: `Client` for threads, `AsyncClient` for trio and asyncio tasks. Same methods, same promises.

    with Client(["https://127.0.0.1:8000"], service_certificate="common/service_cert.pem", credentials=(cert, key)) as client:
        answer = client.submit("PUT", "/app/records/42", b"hello", headers={"content-type": "text/plain"})
        print(answer.transaction_id, "is committed")

Laws: every connection ends at the pinned service identity; nothing is believed for having come back with status 200 that can be proven.
Not here: what is tried when (`client.attempts`), bytes (`client.session`, `client.pipeline`), first trust (`client.trust`).
"""

import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Final, TypeAlias

import anyio
import httpx

from ledgerd.ledger import receipt as receipts
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id
from ledgerd.ledger.receipt import VerifiedReceipt
from ledgerd.network.client.attempts import STATUS_PATH, Attempting, Pause, Result, Send, Steps, attempts, submission
from ledgerd.network.client.bulk import Bulk
from ledgerd.network.client.errors import ClientError, RetryBudgetExhausted, TransactionInvalid
from ledgerd.network.client.identity import (
    ALPN_HTTP,
    ALPN_PIPELINED,
    Credentials,
    ServiceIdentity,
    read_identity,
    tls_context,
    unverified_context,
)
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.pipeline import AsyncPipelined, run_bulk, run_bulk_blocking
from ledgerd.network.client.session import CONNECT_SECONDS_MAX, AsyncHttp, SyncHttp, lost
from ledgerd.network.client.trust import (
    NONCE_SIZE_BYTES,
    STATEMENT_PATH,
    Line,
    Root,
    Trusted,
    parse_statement,
    policy_of,
    verify_statement,
)
from ledgerd.network.client.values import Answer, Budget, Call, parse_json

WINDOW_DEFAULT: Final = 64
_BUDGET: Final = Budget()

File: TypeAlias = str | PathLike[str]


class _Core:
    """What both faces share: identity, nodes, budget; and every request as steps to be driven."""

    def __init__(
        self,
        urls: Iterable[str] | str,
        service_certificate: File | ServiceIdentity,
        credentials: tuple[File, File] | None,
        budget: Budget,
    ) -> None:
        self.identity: Final = read_identity(service_certificate)
        self.nodes: Final = Nodes([urls] if isinstance(urls, str) else urls)
        self.credentials: Final = None if credentials is None else Credentials(fspath(credentials[0]), fspath(credentials[1]))
        self.shared: Final = Attempting(budget, time.monotonic, random.random, secrets.token_urlsafe)  # jitter needs no secrecy
        self.service_key: Final = receipts.public_key(receipts.load_certificate(self.identity.certificate))

    def context(self, alpn: str) -> ssl.SSLContext:
        return tls_context(self.identity, self.credentials, alpn)

    def deadline(self) -> float:
        return self.shared.clock() + self.shared.budget.seconds

    def ask(self, call: Call, *, committed: bool = False, waits: bool = False) -> Steps:
        return attempts(call, self.nodes, self.shared, deadline=self.deadline(), commit=committed, waits=waits)

    def submission(self, call: Call, *, commit: bool, receipt: bool, key: str | None, make_key: bool) -> Steps:
        answer = yield from submission(call, self.nodes, self.shared, key=key, make_key=make_key, commit=commit or receipt, receipt=receipt)
        if receipt:
            carried = answer.receipt
            if carried is None:
                raise FormatError(f"{call.method} {call.path}: the answer carries no receipt, though one was asked for")
            self.verify_receipt(carried, answer.transaction_id)
        return answer

    def receipt(self, transaction_id: TransactionId | str, form: str) -> Steps:
        if form not in ("cose", "json"):
            raise ConfigurationError(f"a receipt is cose or json, not {form!r}")
        wanted = _id(transaction_id)
        path = "/app/receipt/cose" if form == "cose" else "/app/receipt"
        try:
            answer = yield from self.ask(Call("GET", f"{path}?transaction_id={wanted}"), waits=True)
        except RetryBudgetExhausted as error:
            raise RetryBudgetExhausted(error.attempts, error.seconds, error.last, f"there was no receipt of {wanted}") from None
        self.verify_receipt(answer.body, wanted)
        return answer

    def verify_receipt(self, receipt: bytes, expected: TransactionId | None, claims_digest: bytes | None = None) -> VerifiedReceipt:
        if receipt[:1] == b"{":
            return receipts.verify_json(receipt, self.identity.certificate, expected=expected, claims_digest=claims_digest)
        return receipts.verify_cose(receipt, self.service_key, claims_digest, expected=expected)

    def wait_for_commit(self, transaction_id: TransactionId | str) -> Steps:
        wanted = _id(transaction_id)
        deadline, pause = self.deadline(), self.shared.budget.pause_seconds
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
        if window < 1:
            raise ConfigurationError(f"a window of {window} requests lets none be sent")
        return Bulk(calls, self.nodes, self.shared, window=window, commit=commit, make_keys=idempotent)


class Client:
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
        budget: Budget = _BUDGET,
    ) -> None:
        self._core = _Core(urls, service_certificate, credentials, budget)
        self._http = SyncHttp(self._core.context(ALPN_HTTP))
        self.attestation: Trusted | None = None

    @classmethod
    def trust(
        cls,
        urls: Iterable[str] | str,
        *,
        measurements: Iterable[Line],
        roots: Iterable[Root] | None = None,
        genesis: str | None = None,
        configuration: Mapping[str, Any] | None = None,
        credentials: tuple[File, File] | None = None,
        budget: Budget = _BUDGET,
    ) -> "Client":
        """Verify a node's attestation, made for our own nonce, and pin the service identity that it binds.

        Args:
            urls: As for the client; the first that answers is asked.
            measurements: Images that may run: PCR0, PCR1, PCR2 in hex.
            roots: Attestation roots (PEM text or files); None: AWS's alone.
            genesis: Hex digest of the service's first entry, where known: distinguishes it from others that run the same image.
            configuration: Values that the service's configuration must have, such as `{"roots": [...]}`; see docs/formats/join.md.
            credentials, budget: As for the client.
        Returns: A client; `client.attestation` says what was verified, and whether it was SIMULATED.
        Raises: AttestationError, ServiceIdentityMismatch: refused. RetryBudgetExhausted: Nobody answered.
        """
        policy = policy_of(roots, measurements)
        origins = Nodes([urls] if isinstance(urls, str) else urls).origins
        nonce = secrets.token_bytes(NONCE_SIZE_BYTES)
        failures = []
        with httpx.Client(verify=unverified_context(ALPN_HTTP), trust_env=False, timeout=_trust_timeout(budget)) as http:
            for origin in origins:
                try:
                    with http.stream("GET", f"{origin}{STATEMENT_PATH}{nonce.hex()}") as response:
                        presented = _presented(response)
                        body = response.read()
                except httpx.TransportError as error:
                    failures.append(f"{origin}: {lost(error).reason}")
                    continue
                if response.status_code != 200:
                    failures.append(f"{origin} answered {response.status_code}")
                    continue
                trusted = verify_statement(
                    parse_statement(parse_json(body)),
                    policy,
                    presented=presented,
                    nonce=nonce,
                    now_ms=_now_ms(),
                    genesis=genesis,
                    configuration=configuration,
                )
                client = cls(origins, service_certificate=trusted.identity, credentials=credentials, budget=budget)
                client.attestation = trusted
                return client
        raise RetryBudgetExhausted(len(origins), budget.seconds, "; ".join(failures))

    @property
    def identity(self) -> ServiceIdentity:
        """The pinned identity."""
        return self._core.identity

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes known so far."""
        return self._core.nodes.origins

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
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
        call = _call(method, path, body, headers)
        return self._drive(self._core.submission(call, commit=commit, receipt=receipt, key=idempotency_key, make_key=idempotent))

    def get(self, path: str, *, headers: Mapping[str, str] | None = None, committed: bool = False) -> Answer:
        """Read. By default serialisable and at once; with `committed` linearizable, and nothing that it saw can be undone.

        Raises: As `submit`, but for `TransactionInvalid`.
        """
        return self._drive(self._core.ask(_call("GET", path, b"", headers), committed=committed))

    def status(self, transaction_id: TransactionId | str) -> str:
        """Ask one node: Unknown, Pending, Committed or Invalid; the last two are final."""
        return status_of(self._drive(self._core.ask(_status_call(_id(transaction_id)))))

    def wait_for_commit(self, transaction_id: TransactionId | str) -> None:
        """Return when it is committed. Raises: TransactionInvalid: It never will be. RetryBudgetExhausted: Not yet."""
        self._drive(self._core.wait_for_commit(transaction_id))

    def receipt(self, transaction_id: TransactionId | str, *, form: str = "cose") -> bytes:
        """Get a receipt, `cose` or `json`, verified against the pinned identity; waits until there is one.

        Raises: IntegrityError, FormatError: It does not verify. Otherwise as `get`.
        """
        return self._drive(self._core.receipt(transaction_id, form)).body

    def verify_receipt(
        self, receipt: bytes, *, transaction_id: TransactionId | str | None = None, claims_digest: bytes | None = None
    ) -> VerifiedReceipt:
        """Verify a receipt of this service offline.

        Raises: IntegrityError, FormatError: It does not verify.
        """
        return self._core.verify_receipt(receipt, None if transaction_id is None else _id(transaction_id), claims_digest)

    def submit_many(
        self, calls: Iterable[Call], *, window: int = WINDOW_DEFAULT, commit: bool = True, idempotent: bool = True
    ) -> Iterator[tuple[int, Answer | ClientError]]:
        """Submit many transactions over one pipelined connection (`ledgerd/1`), up to `window` at a time.

        Yields: (index of the call, its answer or its error), as they come. The promises of `submit` hold for each.
        Raises: ServiceIdentityMismatch: No node belongs to the pinned service.
        """
        bulk = self._core.bulk(calls, window, commit, idempotent)
        if idempotent and self._core.nodes.newest is None:
            self._learn()
        return run_bulk_blocking(bulk, self._core.context(ALPN_PIPELINED))

    def _learn(self) -> None:
        answer = self.get("/node/commit")
        self._core.nodes.newest = _id(answer.json()["transaction_id"])

    def _drive(self, steps: Steps) -> Answer:
        result: Result = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            if isinstance(step, Send):
                result = self._http.send(step)
            else:
                time.sleep(step.seconds)
                result = None


class AsyncClient:
    """A service as seen from trio or asyncio tasks; may be shared between them. Use it in `async with`, or `await aclose()`.

    Args: As `Client`, and
        pipelined: Send everything over `ledgerd/1`, one connection per node for all tasks, instead of HTTP/1.1.
    """

    def __init__(
        self,
        urls: Iterable[str] | str,
        *,
        service_certificate: File | ServiceIdentity,
        credentials: tuple[File, File] | None = None,
        budget: Budget = _BUDGET,
        pipelined: bool = False,
    ) -> None:
        self._core = _Core(urls, service_certificate, credentials, budget)
        context = self._core.context(ALPN_PIPELINED if pipelined else ALPN_HTTP)
        self._session: AsyncHttp | AsyncPipelined = AsyncPipelined(context) if pipelined else AsyncHttp(context)
        self.attestation: Trusted | None = None

    @classmethod
    async def trust(
        cls,
        urls: Iterable[str] | str,
        *,
        measurements: Iterable[Line],
        roots: Iterable[Root] | None = None,
        genesis: str | None = None,
        configuration: Mapping[str, Any] | None = None,
        credentials: tuple[File, File] | None = None,
        budget: Budget = _BUDGET,
        pipelined: bool = False,
    ) -> "AsyncClient":
        """As `Client.trust`."""
        policy = policy_of(roots, measurements)
        origins = Nodes([urls] if isinstance(urls, str) else urls).origins
        nonce = secrets.token_bytes(NONCE_SIZE_BYTES)
        failures = []
        async with httpx.AsyncClient(verify=unverified_context(ALPN_HTTP), trust_env=False, timeout=_trust_timeout(budget)) as http:
            for origin in origins:
                try:
                    async with http.stream("GET", f"{origin}{STATEMENT_PATH}{nonce.hex()}") as response:
                        presented = _presented(response)
                        body = await response.aread()
                except httpx.TransportError as error:
                    failures.append(f"{origin}: {lost(error).reason}")
                    continue
                if response.status_code != 200:
                    failures.append(f"{origin} answered {response.status_code}")
                    continue
                trusted = verify_statement(
                    parse_statement(parse_json(body)),
                    policy,
                    presented=presented,
                    nonce=nonce,
                    now_ms=_now_ms(),
                    genesis=genesis,
                    configuration=configuration,
                )
                client = cls(origins, service_certificate=trusted.identity, credentials=credentials, budget=budget, pipelined=pipelined)
                client.attestation = trusted
                return client
        raise RetryBudgetExhausted(len(origins), budget.seconds, "; ".join(failures))

    @property
    def identity(self) -> ServiceIdentity:
        """The pinned identity."""
        return self._core.identity

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes known so far."""
        return self._core.nodes.origins

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            await self._session.close()

    async def submit(
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
        """As `Client.submit`."""
        call = _call(method, path, body, headers)
        return await self._drive(self._core.submission(call, commit=commit, receipt=receipt, key=idempotency_key, make_key=idempotent))

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None, committed: bool = False) -> Answer:
        """As `Client.get`."""
        return await self._drive(self._core.ask(_call("GET", path, b"", headers), committed=committed))

    async def status(self, transaction_id: TransactionId | str) -> str:
        """As `Client.status`."""
        return status_of(await self._drive(self._core.ask(_status_call(_id(transaction_id)))))

    async def wait_for_commit(self, transaction_id: TransactionId | str) -> None:
        """As `Client.wait_for_commit`."""
        await self._drive(self._core.wait_for_commit(transaction_id))

    async def receipt(self, transaction_id: TransactionId | str, *, form: str = "cose") -> bytes:
        """As `Client.receipt`."""
        return (await self._drive(self._core.receipt(transaction_id, form))).body

    def verify_receipt(
        self, receipt: bytes, *, transaction_id: TransactionId | str | None = None, claims_digest: bytes | None = None
    ) -> VerifiedReceipt:
        """As `Client.verify_receipt`; pure computation, so not asynchronous."""
        return self._core.verify_receipt(receipt, None if transaction_id is None else _id(transaction_id), claims_digest)

    async def submit_many(
        self, calls: Iterable[Call], *, window: int = WINDOW_DEFAULT, commit: bool = True, idempotent: bool = True
    ) -> AsyncIterator[tuple[int, Answer | ClientError]]:
        """As `Client.submit_many`, as an asynchronous iterator; run it to its end, or close it with `aclosing`."""
        bulk = self._core.bulk(calls, window, commit, idempotent)
        if idempotent and self._core.nodes.newest is None:
            answer = await self.get("/node/commit")
            self._core.nodes.newest = _id(answer.json()["transaction_id"])
        async for result in run_bulk(bulk, self._core.context(ALPN_PIPELINED)):
            yield result

    async def _drive(self, steps: Steps) -> Answer:
        result: Result = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            if isinstance(step, Send):
                result = await self._session.send(step)
            else:
                await anyio.sleep(step.seconds)
                result = None


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


def _presented(response: httpx.Response) -> bytes | None:
    """DER of the certificate that the node presented on the connection of this response."""
    stream = response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("ssl_object")
    certificate: bytes | None = None if connection is None else connection.getpeercert(True)
    return certificate


def _trust_timeout(budget: Budget) -> httpx.Timeout:
    return httpx.Timeout(budget.attempt_seconds, connect=min(budget.attempt_seconds, CONNECT_SECONDS_MAX))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
