"""Carries out `submit_many` in a thread, over one TLS connection at a time that speaks `ledgerd/1`.

Not here: frames (`client.frames`), what goes again (`client.bulk`), trio and asyncio (`client.pipeline`).
"""

import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from ledgerd.ledger.errors import FormatError
from ledgerd.network.client.attempts import Lost, Trouble
from ledgerd.network.client.bulk import Bulk
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.frames import Decoder
from ledgerd.network.client.identity import ALPN_PIPELINED
from ledgerd.network.client.losses import CONNECT_SECONDS_MAX, ELSEWHERE, RECEIVE_BYTES, cut, lost
from ledgerd.network.client.values import Answer


def run_bulk(bulk: Bulk, context: ssl.SSLContext) -> Iterator[tuple[int, Answer | ClientError]]:
    """Drive a `Bulk` to its end in this thread; yields each call's result as it comes."""
    while not bulk.finished():
        origin = bulk.origin()
        timeout = bulk.shared.budget.attempt_seconds
        why: Lost | None = None
        connection = _connect(origin, context, timeout)
        if isinstance(connection, Lost):
            why = connection
        else:
            decoder = Decoder()
            with connection:
                while why is None:
                    results: list[tuple[int, Answer | ClientError]] = []
                    try:
                        data = bulk.output()
                        if data:
                            connection.sendall(data)
                        if bulk.finished():
                            break
                        frames = decoder.feed(_receive(connection))
                    except (OSError, FormatError) as error:
                        why = cut(error, timeout)
                    else:
                        results, stay = bulk.received(frames)
                        why = None if stay else ELSEWHERE
                    yield from results
        if why is not None:
            results, pause = bulk.lost(origin, why)
            yield from results
            time.sleep(pause)


def _connect(origin: str, context: ssl.SSLContext, timeout: float) -> ssl.SSLSocket | Lost:
    parts = urlsplit(origin)
    assert parts.hostname and parts.port, "nodes are origins"
    try:
        plain = socket.create_connection((parts.hostname, parts.port), timeout=min(timeout, CONNECT_SECONDS_MAX))
    except OSError as error:
        return Lost(Trouble.NOT_SENT, str(error))
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(plain, server_hostname=parts.hostname)
    except OSError as error:
        plain.close()
        return lost(error, sent=False)
    if connection.selected_alpn_protocol() != ALPN_PIPELINED:
        connection.close()
        return Lost(Trouble.NOT_SENT, f"the node does not speak {ALPN_PIPELINED}")
    connection.settimeout(timeout)
    return connection


def _receive(connection: ssl.SSLSocket) -> bytes:
    """Wait for bytes; raises OSError at the end of the stream."""
    data = connection.recv(RECEIVE_BYTES)
    if not data:
        raise ConnectionResetError("the node closed the connection")
    return data
