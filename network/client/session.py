"""Carries out `Send` over HTTP/1.1: one pool of connections, synchronous or asynchronous.

Laws: redirects, proxies from the environment and cookies do not exist here; every failure becomes a `Lost` that says whether the
request can have left. Loaded by `client.client` when HTTP is first needed: httpx takes a quarter of a second of CPU to load, and who
only pipelines needs none of it. Not here: when to send again (`client.attempts`), many requests on one connection (`client.pipeline`).
"""

import ssl
from http.cookiejar import DefaultCookiePolicy
from typing import Final

import anyio
import httpx

from ledgerd.network.client.attempts import Lost, Received, Send, Trouble
from ledgerd.network.client.identity import ALPN_HTTP, unverified_context
from ledgerd.network.client.losses import CONNECT_SECONDS_MAX, lost
from ledgerd.network.client.trust import STATEMENT_SIZE_BYTES_MAX, Presented, Steps, Trusted
from ledgerd.network.client.values import Budget

CONNECTIONS_MAX: Final = 1000

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_LIMITS: Final = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX, keepalive_expiry=60)


class SyncHttp:
    """HTTP for threads."""

    __slots__ = ("_client",)

    def __init__(self, context: ssl.SSLContext) -> None:
        self._client = httpx.Client(verify=context, trust_env=False, follow_redirects=False, limits=_LIMITS)
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))

    def send(self, step: Send) -> Received | Lost:
        """Send and wait. Never raises for anything that the network or the node does."""
        try:
            response = self._client.request(
                step.method, step.origin + step.path, headers=step.headers, content=step.body or None, timeout=_timeout(step)
            )
        except httpx.RequestError as error:
            return lost(error, sent=not isinstance(error, _NOT_SENT))
        return _received(response)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class AsyncHttp:
    """HTTP for trio and asyncio tasks."""

    __slots__ = ("_client",)

    def __init__(self, context: ssl.SSLContext) -> None:
        self._client = httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, limits=_LIMITS)
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))

    async def send(self, step: Send) -> Received | Lost:
        """Send and wait. Never raises for anything that the network or the node does."""
        try:
            with anyio.fail_after(step.timeout):  # httpx counts from each byte, and a hostile host may let them drip
                response = await self._client.request(
                    step.method, step.origin + step.path, headers=step.headers, content=step.body or None, timeout=_timeout(step)
                )
        except httpx.RequestError as error:
            return lost(error, sent=not isinstance(error, _NOT_SENT))
        except TimeoutError:
            return Lost(Trouble.CUT, f"no answer within {step.timeout:.1f} s")
        return _received(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def fetch(steps: Steps, budget: Budget) -> Trusted:
    """Drive `client.trust.steps` to its end."""
    with httpx.Client(verify=unverified_context(ALPN_HTTP), trust_env=False, timeout=_patience(budget)) as http:
        found: Presented | Lost | None = None
        while True:
            try:
                url = steps.send(found)
            except StopIteration as done:
                trusted: Trusted = done.value
                return trusted
            try:
                with http.stream("GET", url) as response:
                    certificate = _certificate(response)  # before the body: with its end the connection may be gone
                    body = _Statement()
                    for part in response.iter_raw():  # as it came: a node has no reason to compress it
                        body.add(part)
                    found = Presented(response.status_code, bytes(body.data), certificate)
            except httpx.RequestError as error:
                found = lost(error, sent=True)


async def fetch_async(steps: Steps, budget: Budget) -> Trusted:
    """As `fetch`."""
    async with httpx.AsyncClient(verify=unverified_context(ALPN_HTTP), trust_env=False, timeout=_patience(budget)) as http:
        found: Presented | Lost | None = None
        while True:
            try:
                url = steps.send(found)
            except StopIteration as done:
                trusted: Trusted = done.value
                return trusted
            try:
                async with http.stream("GET", url) as response:
                    certificate = _certificate(response)  # before the body: with its end the connection may be gone
                    body = _Statement()
                    async for part in response.aiter_raw():
                        body.add(part)
                    found = Presented(response.status_code, bytes(body.data), certificate)
            except httpx.RequestError as error:
                found = lost(error, sent=True)


class _Statement:
    """A body from somebody who is not believed yet, and may never come to its end."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, part: bytes) -> None:
        """Take more. Raises: httpx.ReadError: It is too much."""
        if len(self.data) + len(part) > STATEMENT_SIZE_BYTES_MAX:
            raise httpx.ReadError(f"it answers with more than {STATEMENT_SIZE_BYTES_MAX} bytes")
        self.data += part


def _certificate(response: httpx.Response) -> bytes | None:
    """DER of the certificate that the node presented on the connection of this response, while that is open."""
    stream = response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("ssl_object")
    certificate: bytes | None = None if connection is None else connection.getpeercert(True)
    return certificate


def _patience(budget: Budget) -> httpx.Timeout:
    return httpx.Timeout(budget.attempt_seconds, connect=min(budget.attempt_seconds, CONNECT_SECONDS_MAX))


def _timeout(step: Send) -> httpx.Timeout:
    return httpx.Timeout(step.timeout, connect=min(step.timeout, CONNECT_SECONDS_MAX))


def _received(response: httpx.Response) -> Received:
    return Received(response.status_code, dict(response.headers), response.content)
