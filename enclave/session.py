"""One client's stream: what it is doing, as far as deadlines and places care. The rules for all of them are in `enclave.sessions`."""

from typing import Final, TypeAlias

from ledgerd.enclave.http import HttpConnection
from ledgerd.enclave.pipeline import PipelineConnection
from ledgerd.enclave.tls import TlsConnection

Protocol: TypeAlias = HttpConnection | PipelineConnection

# What a session is doing.
HANDSHAKE: Final = 0
IDLE: Final = 1
READING: Final = 2  # a request has begun and is not all there
ANSWERING: Final = 3  # the next move is ours
LINGERING: Final = 4  # refused and told so; swallowing what is still on its way


class Session:
    """One client's stream.

    Attributes:
        protocol: Chosen by ALPN once the handshake is done; None before.
        since: When the phase began; for a session without a request, when it last had one.
        greeted: Its handshake has begun: what the first bytes ask of us, an exchange of keys and a signature, is most of one.
        over_cap: It came when all places were taken, and is told so.
        unread, unread_bytes: See `enclave.turns`.
        remote: Whence it comes, `address:port`, as the host says.
        gone: It is over; somebody may still refer to it.
        lingered: Bytes swallowed since it was refused.
    """

    __slots__ = (
        "dirty",
        "gone",
        "greeted",
        "lingered",
        "over_cap",
        "phase",
        "protocol",
        "remote",
        "since",
        "stream",
        "tls",
        "unread",
        "unread_bytes",
    )

    def __init__(self, stream: int, tls: TlsConnection, since: float, remote: str, over_cap: bool) -> None:
        self.stream = stream
        self.tls = tls
        self.protocol: Protocol | None = None
        self.phase = HANDSHAKE
        self.since = since
        self.remote = remote
        self.over_cap = over_cap
        self.greeted = False
        self.dirty = False
        self.gone = False
        self.lingered = 0
        self.unread: list[bytes] | None = None
        self.unread_bytes = 0
