"""Requests that a backup passes to the primary, over the channel between their enclaves, and the answers that come back.

The client's TLS session ends at the backup, whose enclave is attested like the primary's, so the primary believes it about the
caller's certificate. A request is never sent twice: when the channel is cut, its fate is unknown and the client is told so.
Not here: the channel (`enclave.channels`), consensus messages on it (`enclave.consensus.messages`).
"""

from typing import Any, Final, NamedTuple

import msgpack

from ledgerd.enclave.answers import SWEEP_SECONDS
from ledgerd.enclave.requests import HEADERS_MAX, Request, Response
from ledgerd.ledger.errors import PeerError
from ledgerd.ledger.ids import NodeId

OUTSTANDING_MAX: Final = 10_000  # CCF's bound on uncommitted transactions; beyond it a primary would refuse them anyway
_ITEMS_MAX: Final = HEADERS_MAX + 16  # those of the service itself come on top
_NEVER: Final = float("inf")


class RemoteReply(NamedTuple):
    """Where the answer of a forwarded request goes: back to `node`, under the number it gave."""

    node: NodeId
    number: int


def encode_request(number: int, request: Request) -> bytes:
    """Pack a request for the primary."""
    packed: bytes = msgpack.packb(
        (
            number,
            request.method,
            request.path,
            request.query,
            dict(request.headers),
            request.body,
            request.certificate,
            request.caller_id,
        )
    )
    return packed


def decode_request(node: NodeId, data: bytes) -> Request:
    """Unpack a request forwarded by `node`.

    Raises: PeerError: It is malformed; the nodes are not of one version.
    """
    values = _unpack(node, data, 8)
    number, method, path, query, headers, body, certificate, caller_id = values
    if (
        type(number) is not int
        or not all(type(text) is str for text in (method, path, query, caller_id))
        or type(headers) is not dict
        or not all(type(name) is type(value) is str for name, value in headers.items())
        or type(body) is not bytes
        or not (certificate is None or type(certificate) is bytes)
    ):
        raise PeerError(f"node {node[:16]}... forwarded a malformed request")
    return Request(RemoteReply(node, number), method, path, query, headers, body, certificate, caller_id)


def encode_answer(number: int, response: Response) -> bytes:
    """Pack the primary's answer."""
    packed: bytes = msgpack.packb((number, response.status, response.headers, response.body, response.content_type))
    return packed


def decode_answer(node: NodeId, data: bytes) -> tuple[int, Response]:
    """Unpack the primary's answer: the number of the request, and the response.

    Raises: PeerError: It is malformed.
    """
    number, status, headers, body, content_type = _unpack(node, data, 5)
    if (
        type(number) is not int
        or type(status) is not int
        or not 100 <= status <= 599
        or type(headers) is not list
        or not all(type(item) is list and len(item) == 2 and type(item[0]) is type(item[1]) is str for item in headers)
        or type(body) is not bytes
        or type(content_type) is not str
    ):
        raise PeerError(f"node {node[:16]}... sent a malformed answer")
    return number, Response(status, tuple((name, value) for name, value in headers), body, content_type)


def _unpack(node: NodeId, data: bytes, count: int) -> list[Any]:
    try:
        values = msgpack.unpackb(data, max_array_len=_ITEMS_MAX, max_map_len=_ITEMS_MAX, max_ext_len=0)
    except (ValueError, msgpack.UnpackException):
        raise PeerError(f"node {node[:16]}... sent a forwarded message that is not msgpack") from None
    if type(values) is not list or len(values) != count:
        raise PeerError(f"node {node[:16]}... sent a forwarded message without its {count} fields")
    return values


class Forwarded:
    """A backup's outstanding requests: who waits for which number of which primary.

    Attributes:
        next_deadline: When to look for those that have waited for too long: earlier than the first has if it was answered since, and later
            by `SWEEP_SECONDS` at most.
    """

    def __init__(self) -> None:
        self.next_deadline = _NEVER
        self._waiting: dict[int, tuple[NodeId, Request, float]] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_number(self) -> int:
        """The number that the next request gets."""
        return self._next

    def add(self, primary: NodeId, request: Request, deadline: float) -> None:
        """Note that a request is now sent to `primary` as `next_number`, and not waited for after `deadline`, monotonic seconds."""
        self._waiting[self._next] = (primary, request, deadline)
        self._next += 1
        self.next_deadline = min(self.next_deadline, deadline)

    def hurry(self, primary: NodeId, deadline: float) -> None:
        """Another node is primary now: whoever was asked before may be kept from answering for ever, so wait until `deadline` at most."""
        for number, (node, request, until) in self._waiting.items():
            if node != primary and until > deadline:
                self._waiting[number] = (node, request, deadline)
                self.next_deadline = min(self.next_deadline, deadline)

    def answered(self, node: NodeId, number: int) -> Request | None:
        """Take the request of this number at this node; None if nobody waits for it (any more)."""
        waiting = self._waiting.get(number)
        if waiting is None or waiting[0] != node:
            return None
        del self._waiting[number]
        return waiting[1]

    def cut(self, node: NodeId) -> list[Request]:
        """Take everything that was asked of `node`: the channel was cut and its fate is unknown."""
        numbers = [number for number, (primary, _, _) in self._waiting.items() if primary == node]
        return [self._waiting.pop(number)[1] for number in numbers]

    def take_expired(self, now: float) -> list[Request]:
        """Take everything that has waited for too long. Costs a sweep, but only when something may have."""
        if now < self.next_deadline:
            return []
        numbers = [number for number, (_, _, deadline) in self._waiting.items() if deadline <= now]
        taken = [self._waiting.pop(number)[1] for number in numbers]
        self.next_deadline = max(now + SWEEP_SECONDS, min((deadline for _, _, deadline in self._waiting.values()), default=_NEVER))
        return taken
