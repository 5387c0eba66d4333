"""The SDK as seen from trio and asyncio tasks: `AsyncClient`. The same methods as `Client`'s, the same promises.

Loaded when it is first asked for: anyio takes half as long to load as all the rest of the SDK, and threads need none of it.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from ledgerd.ledger.ids import TransactionId
from ledgerd.network.client.attempts import Result, Send, Steps
from ledgerd.network.client.client import BUDGET_DEFAULT, WINDOW_DEFAULT, Face
from ledgerd.network.client.core import Core, File, status_of, trusting
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.identity import ALPN_HTTP, ALPN_PIPELINED, ServiceIdentity
from ledgerd.network.client.pipeline import AsyncPipelined, run_bulk
from ledgerd.network.client.values import Answer, Budget, Call

if TYPE_CHECKING:
    from ledgerd.network.client.session import AsyncHttp
    from ledgerd.network.client.trust import Line, Root


class AsyncClient(Face):
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
        budget: Budget = BUDGET_DEFAULT,
        pipelined: bool = False,
    ) -> None:
        super().__init__(Core(urls, service_certificate, credentials, budget))
        self._session: AsyncHttp | AsyncPipelined | None = AsyncPipelined(self._core.context(ALPN_PIPELINED)) if pipelined else None

    @classmethod
    async def trust(
        cls,
        urls: Iterable[str] | str,
        *,
        measurements: Iterable["Line"],
        roots: Iterable["Root"] | None = None,
        genesis: str | None = None,
        configuration: Mapping[str, Any] | None = None,
        credentials: tuple[File, File] | None = None,
        budget: Budget = BUDGET_DEFAULT,
        pipelined: bool = False,
    ) -> "AsyncClient":
        """As `Client.trust`."""
        from ledgerd.network.client.session import fetch_async  # noqa: PLC0415 (httpx; see there)

        trusted = await fetch_async(trusting(urls, measurements, roots, genesis, configuration, budget), budget)
        client = cls(urls, service_certificate=trusted.identity, credentials=credentials, budget=budget, pipelined=pipelined)
        client.attestation = trusted
        return client

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
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
        steps = self._core.submit(method, path, body, headers, commit=commit, receipt=receipt, key=idempotency_key, make_key=idempotent)
        return await self._drive(steps)

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None, committed: bool = False) -> Answer:
        """As `Client.get`."""
        return await self._drive(self._core.get(path, headers, committed=committed))

    async def status(self, transaction_id: TransactionId | str) -> str:
        """As `Client.status`."""
        return status_of(await self._drive(self._core.status(transaction_id)))

    async def wait_for_commit(self, transaction_id: TransactionId | str) -> None:
        """As `Client.wait_for_commit`."""
        await self._drive(self._core.wait_for_commit(transaction_id))

    async def receipt(self, transaction_id: TransactionId | str, *, form: str = "cose") -> bytes:
        """As `Client.receipt`."""
        return (await self._drive(self._core.receipt(transaction_id, form))).body

    async def submit_many(
        self, calls: Iterable[Call], *, window: int = WINDOW_DEFAULT, commit: bool = True, idempotent: bool = True
    ) -> AsyncIterator[tuple[int, Answer | ClientError]]:
        """As `Client.submit_many`, as an asynchronous iterator; run it to its end, or close it with `aclosing`."""
        bulk = self._core.bulk(calls, window, commit, idempotent)
        context = self._core.context(ALPN_PIPELINED)
        async for result in run_bulk(bulk, context):
            yield result

    def _open(self) -> "AsyncHttp":
        from ledgerd.network.client.session import AsyncHttp  # noqa: PLC0415 (httpx; see there)

        self._session = http = AsyncHttp(self._core.context(ALPN_HTTP))
        return http

    async def _drive(self, steps: Steps) -> Answer:
        result: Result = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            if isinstance(step, Send):
                result = await (self._session or self._open()).send(step)
            else:
                await anyio.sleep(step.seconds)
                result = None
