"""Carries out `Send` over HTTP/1.1: one pool of connections, synchronous or asynchronous.

Laws: redirects, proxies from the environment and cookies do not exist here; every failure becomes a `Lost` that says whether the
request can have left. Not here: when to send again (`client.attempts`), many requests on one connection (`client.pipeline`).
"""

import ssl
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Final

import anyio
import httpx

from ledgerd.network.client.attempts import Lost, Received, Send, Trouble

CONNECT_SECONDS_MAX: Final = 2.0  # a host that is gone answers nothing at all; do not spend a whole attempt on it
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
        except httpx.TransportError as error:
            return lost(error)
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
        except httpx.TransportError as error:
            return lost(error)
        except TimeoutError:
            return Lost(Trouble.CUT, f"no answer within {step.timeout:.1f} s")
        return _received(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def lost(error: BaseException) -> Lost:
    """Sort a transport error by what can have left: nothing, something, or nothing since it is not our service."""
    reason = str(error) or type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Lost(Trouble.IMPOSTOR, f"its certificate is not endorsed by the pinned service: {cause.verify_message}")
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            return Lost(Trouble.IMPOSTOR, "its certificate is not endorsed by the pinned service")
    return Lost(Trouble.NOT_SENT if isinstance(error, _NOT_SENT) else Trouble.CUT, reason)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _timeout(step: Send) -> httpx.Timeout:
    return httpx.Timeout(step.timeout, connect=min(step.timeout, CONNECT_SECONDS_MAX))


def _received(response: httpx.Response) -> Received:
    return Received(response.status_code, dict(response.headers), response.content)
