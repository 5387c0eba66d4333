"""Client sessions end to end in memory: bytes of the host in, requests out, answers back, deadlines and caps."""

import hashlib
import json
from collections.abc import Iterator

import msgpack
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from ledgerd.enclave.http import Limits
from ledgerd.enclave.requests import TEXT, Request, Response
from ledgerd.enclave.sessions import HANDSHAKES_MAX, ReplyTo, SessionLimits, Sessions
from ledgerd.enclave.tls import TlsContext
from ledgerd.enclave.turns import LEFT_SECONDS_MAX, UNREAD_SIZE_BYTES_MAX
from ledgerd.ledger.errors import UsageError
from support.tls import Identity, MemoryClient, identity

SERVER = identity("node")
ALICE = identity("alice")
assert isinstance(SERVER.key, ec.EllipticCurvePrivateKey)
CONTEXT = TlsContext.for_clients([SERVER.certificate], SERVER.key)
GET = b"GET /app/commit HTTP/1.1\r\nhost: n\r\n\r\n"


class Host:
    """Carries bytes between a `Sessions` and its clients, as the real one does."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self.sessions = Sessions(CONTEXT, limits or SessionLimits())
        self.clients: dict[int, MemoryClient] = {}
        self.closes: list[int] = []
        self.numbers: Iterator[int] = iter(range(1, 1 << 30))

    def open(self, who: Identity | None = None, protocols: list[bytes] | None = None, version: int | None = None) -> int:
        stream = next(self.numbers)
        self.clients[stream] = MemoryClient(who, protocols=protocols, version=version)
        self.sessions.opened(stream)
        self.carry()
        return stream

    def carry(self) -> None:
        """Until both sides are quiet."""
        while True:
            moved = False
            for stream, client in self.clients.items():
                data = client.take_output()
                if data:
                    moved = True
                    self.sessions.received(stream, data)
            output, closes = self.sessions.take_output()
            self.closes += closes
            for stream, data in output:
                self.clients[stream].receive(data)
            if not moved and not output:
                return

    def send(self, stream: int, data: bytes) -> None:
        self.clients[stream].send(data)
        self.carry()

    def answer(self, request: Request, response: Response) -> None:
        assert isinstance(request.reply_to, ReplyTo)
        self.sessions.answer(request.reply_to, response)
        self.carry()

    def status(self, stream: int) -> int:
        """Of the first answer the client has got."""
        return int(self.clients[stream].plaintext.split(b" ", 2)[1])


def test_a_request_over_http_and_its_answer() -> None:
    host = Host()
    stream = host.open(ALICE)
    host.send(stream, b"PUT /app/records/a?b HTTP/1.1\r\nhost: n\r\ncontent-length: 5\r\n\r\nhello")
    (request,) = host.sessions.take_requests()
    assert (request.method, request.path, request.query, request.body) == ("PUT", "/app/records/a", "b", b"hello")
    assert request.certificate == ALICE.der
    assert request.caller_id == hashlib.sha256(ALICE.der).hexdigest()
    assert host.sessions.take_requests() == []
    host.answer(request, Response(200, (("x-ms-ccf-transaction-id", "2.7"),), b"done", TEXT))
    assert host.clients[stream].plaintext == (
        b"HTTP/1.1 200 OK\r\nx-ms-ccf-transaction-id: 2.7\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\ndone"
    )
    assert host.closes == []


def test_a_request_over_ledgerd_1_and_its_answer() -> None:
    host = Host()
    stream = host.open(ALICE, [b"ledgerd/1"])
    payload = msgpack.packb([3, "GET", "/app/commit", {}, b""])
    host.send(stream, len(payload).to_bytes(4, "big") + payload)
    (request,) = host.sessions.take_requests()
    assert (request.method, request.path, request.certificate) == ("GET", "/app/commit", ALICE.der)
    host.answer(request, Response(204))
    assert msgpack.unpackb(host.clients[stream].plaintext[4:]) == [3, 204, {}, b""]


def test_a_caller_without_certificate_has_an_empty_id() -> None:
    host = Host()
    host.send(host.open(), GET)
    (request,) = host.sessions.take_requests()
    assert request.certificate is None and request.caller_id == ""


def test_a_request_that_comes_with_the_last_flight_of_the_handshake_is_read() -> None:
    host = Host()
    client = MemoryClient(ALICE, version=SSL.TLS1_3_VERSION)
    host.clients[9] = client
    host.sessions.opened(9)
    host.sessions.received(9, client.take_output())
    ((_, data),), _ = host.sessions.take_output()
    client.receive(data)
    client.send(GET)
    host.sessions.received(9, client.take_output())
    assert len(host.sessions.take_requests()) == 1


def test_answers_of_one_wake_up_leave_as_one_write() -> None:
    host = Host()
    stream = host.open()
    host.clients[stream].send(GET * 20)
    host.sessions.received(stream, host.clients[stream].take_output())
    for request in host.sessions.take_requests():
        assert isinstance(request.reply_to, ReplyTo)
        host.sessions.answer(request.reply_to, Response(204))
    output, closes = host.sessions.take_output()
    assert len(output) == 1 and closes == []
    data = output[0][1]
    assert 5 + int.from_bytes(data[3:5], "big") == len(data)  # one TLS record
    assert host.sessions.take_output() == ([], [])


def test_what_is_not_tls_is_closed() -> None:
    host = Host()
    host.sessions.opened(1)
    host.sessions.received(1, GET)
    assert host.sessions.take_output() == ([], [1])
    assert host.sessions.tls_failed == 1 and host.sessions.active == 0


def test_malformed_http_is_answered_and_the_stream_lingers_until_the_client_has_gone() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, b"nonsense\r\n\r\n")
    assert host.status(stream) == 400
    assert host.clients[stream].ended
    assert host.closes == []  # closing with bytes unread would reset the stream before the client has read why
    host.clients[stream].send(b"x" * 100_000)
    host.carry()
    assert host.closes == [] and host.sessions.take_requests() == []
    host.sessions.closed(stream)
    assert host.sessions.active == 0
    host.sessions.sweep(100.0)
    host.carry()
    assert host.closes == []


def test_a_refused_client_that_does_not_go_is_closed_after_the_linger_time() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, b"nonsense\r\n\r\n")
    host.sessions.sweep(1.0)
    host.carry()
    assert host.closes == []
    host.sessions.sweep(3.1)
    host.carry()
    assert host.closes == [stream] and host.sessions.active == 0


def test_a_refused_client_that_floods_is_closed() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, b"nonsense\r\n\r\n")
    for _ in range(9):
        host.sessions.received(stream, bytes(1 << 20))
    host.carry()
    assert host.closes == [stream] and host.sessions.active == 0


def test_connection_close_closes_after_the_answer() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, b"GET / HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")
    (request,) = host.sessions.take_requests()
    assert host.closes == []
    host.answer(request, Response(200, (), b"bye", TEXT))
    assert host.clients[stream].plaintext.endswith(b"bye") and host.clients[stream].ended
    assert host.closes == [stream] and host.sessions.active == 0


def test_a_client_may_close_its_side_and_still_get_its_answer() -> None:
    host = Host()
    stream = host.open()
    host.clients[stream].send(GET)
    host.clients[stream].connection.shutdown()
    host.carry()
    (request,) = host.sessions.take_requests()
    assert host.closes == []
    host.answer(request, Response(200, (), b"late", TEXT))
    assert host.clients[stream].plaintext.endswith(b"late")
    assert host.closes == [stream]


def test_a_client_that_says_goodbye_is_closed() -> None:
    host = Host()
    stream = host.open()
    host.clients[stream].connection.shutdown()
    host.carry()
    assert host.closes == [stream] and host.sessions.active == 0


def test_answers_to_a_session_that_is_gone_are_dropped() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, GET)
    (request,) = host.sessions.take_requests()
    host.sessions.closed(stream)
    host.answer(request, Response(204))
    assert host.closes == [] and host.clients[stream].plaintext == b""


def test_an_unprintable_answer_raises_and_another_may_follow() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, GET)
    (request,) = host.sessions.take_requests()
    with pytest.raises(UsageError):
        host.answer(request, Response(200, (("x", "a\r\nb"),)))
    host.answer(request, Response(500))
    assert host.status(stream) == 500


def test_bytes_for_unknown_streams_and_a_second_opening_are_ignored() -> None:
    host = Host()
    host.sessions.received(77, b"x")
    host.sessions.closed(77)
    stream = host.open()
    host.sessions.opened(stream)
    host.send(stream, GET)
    assert len(host.sessions.take_requests()) == 1
    assert host.sessions.active == 1


def expand(secret: bytes, label: str, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 7.1 with an empty context."""
    name = b"tls13 " + label.encode()
    info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)


def test_key_updates_are_answered_at_once_and_do_not_pile_up() -> None:
    """Each makes OpenSSL answer by itself; unsent, those answers would grow with whatever a client cares to send."""
    host = Host()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_tls13_ciphersuites(b"TLS_AES_256_GCM_SHA384")
    lines: list[bytes] = []
    context.set_keylog_callback(lambda _, line: lines.append(line))
    host.clients[1] = MemoryClient(context=context, version=SSL.TLS1_3_VERSION)
    host.sessions.opened(1)
    host.carry()
    secret = next(bytes.fromhex(line.split()[2].decode()) for line in lines if line.startswith(b"CLIENT_TRAFFIC_SECRET_0"))
    for number in range(50):
        header = b"\x17\x03\x03" + (5 + 1 + 16).to_bytes(2, "big")
        update_requested = b"\x18\x00\x00\x01\x01" + b"\x16"
        sealed = AESGCM(expand(secret, "key", 32)).encrypt(expand(secret, "iv", 12), update_requested, header)  # record 0 of this key
        secret = expand(secret, "traffic upd", 48)
        host.sessions.received(1, header + sealed)
        output, closes = host.sessions.take_output()
        assert closes == []
        assert [len(data) for _, data in output] == ([len(header + sealed)] if number else [])  # OpenSSL answers one behind
        for _, data in output:
            host.clients[1].receive(data)


# Deadlines


def test_a_handshake_that_takes_too_long_is_closed() -> None:
    host = Host()
    client = MemoryClient()
    host.sessions.opened(1)
    host.sessions.received(1, client.take_output())
    for now in (5.0, 10.0):
        host.sessions.sweep(now)
        assert host.sessions.active == 1
    host.sessions.sweep(10.5)
    assert host.sessions.active == 0
    assert 1 in host.sessions.take_output()[1]
    assert host.sessions.timed_out == 1


def test_a_silent_stream_is_closed() -> None:
    host = Host()
    host.sessions.opened(1)
    host.sessions.sweep(10.5)
    assert host.sessions.take_output() == ([], [1])


PUT = b"PUT / HTTP/1.1\r\nhost: n\r\ncontent-length: 9\r\n\r\n"


@pytest.mark.parametrize(("part", "seconds"), [(b"G", 10), (GET[:-1], 10), (PUT, 10), (PUT + b"1234", 30)])
def test_a_request_that_takes_too_long_is_answered_408_and_closed(part: bytes, seconds: int) -> None:
    """Its header may take ten seconds, all of it thirty."""
    host = Host()
    stream = host.open()
    host.sessions.sweep(100.0)
    for index in range(len(part)):  # a drip does not extend the deadline
        host.sessions.sweep(100.0 + 9 * index / len(part))
        host.send(stream, part[index : index + 1])
    host.sessions.sweep(99.0 + seconds)
    host.carry()
    assert host.clients[stream].plaintext == b""
    host.sessions.sweep(100.5 + seconds)
    host.carry()
    assert host.status(stream) == 408
    assert host.sessions.timed_out == 1
    host.sessions.sweep(140.0)
    host.carry()
    assert host.closes == [stream]


def test_a_tls_record_that_never_ends_does_not_keep_a_session_alive() -> None:
    host = Host()
    stream = host.open()
    host.sessions.received(stream, b"\x17\x03\x03\x40\x00")
    for now in range(0, 700, 10):
        host.sessions.sweep(float(now))
        host.sessions.received(stream, b"x")
    host.carry()
    assert host.closes == [stream]


def test_a_busy_pipelining_client_is_never_late() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, GET[:10])
    for now in range(200):
        host.sessions.sweep(float(now))
        host.send(stream, GET[10:] + GET[:10])  # there is always the beginning of the next one
        for request in host.sessions.take_requests():
            host.answer(request, Response(204))
    assert host.closes == [] and host.sessions.timed_out == 0


def test_a_session_that_waits_for_us_is_never_late_and_an_idle_one_is() -> None:
    host = Host()
    stream = host.open()
    host.send(stream, GET)
    (request,) = host.sessions.take_requests()
    for now in range(0, 2000, 100):
        host.sessions.sweep(float(now))
        host.carry()
    assert host.closes == []
    host.answer(request, Response(204))
    host.sessions.sweep(2000.0)
    host.sessions.sweep(2590.0)
    host.carry()
    assert host.closes == []
    host.sessions.sweep(2601.0)
    host.carry()
    assert host.closes == [stream]


# Caps


def test_sessions_beyond_the_cap_are_told_and_beyond_that_closed() -> None:
    """Where all others wait for an answer; else one of them would have to leave."""
    host = Host(SessionLimits(sessions=2, sessions_over=1))
    first, second = host.open(), host.open()
    for stream in (first, second):
        host.send(stream, GET)
        assert len(host.sessions.take_requests()) == 1
    third = host.open()
    host.send(third, GET)
    assert host.sessions.take_requests() == []
    assert host.status(third) == 503
    assert json.loads(host.clients[third].plaintext.split(b"\r\n\r\n")[1])["error"]["code"] == "SessionCapExhausted"
    host.sessions.opened(50)
    assert host.sessions.take_output() == ([], [50])
    assert host.sessions.peak == 3
    host.sessions.closed(third)
    host.sessions.closed(first)
    fourth = host.open()
    host.send(fourth, GET)
    assert len(host.sessions.take_requests()) == 1


def test_a_newcomer_takes_the_place_of_whoever_was_silent_longest() -> None:
    host = Host(SessionLimits(sessions=3))
    streams = [host.open() for _ in range(3)]
    host.sessions.sweep(1.0)
    host.send(streams[0], GET)  # who has asked last is not the one
    host.answer(host.sessions.take_requests()[0], Response(204))
    host.sessions.sweep(2.0)
    newcomer = host.open()
    assert host.closes == [streams[1]]
    assert host.clients[streams[1]].ended, "it was told, by TLS's own goodbye"
    host.send(newcomer, GET)
    assert len(host.sessions.take_requests()) == 1
    assert (host.sessions.evicted, host.sessions.refused_at_cap, host.sessions.active) == (1, 0, 3)
    host.open()
    assert host.closes == streams[1:]
    assert host.sessions.active == 3


def test_who_has_not_finished_a_handshake_or_a_request_leaves_too_and_who_waits_for_us_does_not() -> None:
    host = Host(SessionLimits(sessions=3, sessions_over=0))
    host.sessions.opened(50)  # says nothing
    asking, reading = host.open(), host.open()
    host.send(asking, GET)
    host.send(reading, GET[:9])
    host.sessions.sweep(1.0)
    (request,) = host.sessions.take_requests()
    first, second = host.open(), host.open()
    assert host.closes == [50, reading]
    for stream in (first, second):
        host.send(stream, GET)
    host.sessions.sweep(2.0)
    host.sessions.opened(60)  # all of them wait for an answer
    host.carry()
    assert host.closes == [50, reading, 60]
    assert (host.sessions.evicted, host.sessions.refused_at_cap) == (2, 1)
    host.answer(request, Response(204))
    assert host.status(asking) == 204


def test_a_caller_whom_the_tables_know_keeps_its_place_for_a_while() -> None:
    host = Host(SessionLimits(sessions=2))
    host.sessions.knows = {hashlib.sha256(ALICE.der).hexdigest()}.__contains__
    known, stranger = host.open(ALICE), host.open()
    host.sessions.sweep(20.0)
    host.open()
    assert host.closes == [stranger]
    host.sessions.sweep(31.0)
    host.open()
    assert host.closes == [stranger, known], "not for ever: nobody may fill all places with silence"


def test_a_flood_of_handshakes_waits_for_its_turn_and_nobody_else_does() -> None:
    host = Host()
    stream = host.open()
    flood = [MemoryClient() for _ in range(3 * HANDSHAKES_MAX)]
    for number, client in enumerate(flood, 100):
        host.sessions.opened(number)
        host.sessions.received(number, client.take_output())
    host.clients[stream].send(GET)
    host.sessions.received(stream, host.clients[stream].take_output())
    assert len(host.sessions.take_requests()) == 1, "a session is read at once"
    answered: list[int] = []
    rounds: list[int] = []
    while len(answered) < len(flood):
        assert host.sessions.has_backlog or not rounds
        output, _ = host.sessions.take_output()
        rounds.append(len(output))
        answered += [number for number, _ in output]
    assert answered == list(range(100, 100 + len(flood))), "one after the other, as they came"
    assert max(rounds) <= 2 * HANDSHAKES_MAX
    assert not host.sessions.has_backlog


def test_what_a_commit_waits_for_goes_before_handshakes_but_not_for_long() -> None:
    host = Host()
    stream = host.open()
    for number in (100, 101, 102):
        host.sessions.opened(number)
        host.sessions.received(number, MemoryClient().take_output())
    now = 50.0
    assert host.sessions.take_output(now, is_busy=True) == ([], []), "others have something to send"
    assert host.sessions.has_backlog
    assert [number for number, _ in host.sessions.take_output(now)[0]] == [100], "nobody has"
    host.clients[stream].send(GET)
    host.sessions.received(stream, host.clients[stream].take_output())
    (request,) = host.sessions.take_requests()
    assert isinstance(request.reply_to, ReplyTo)
    host.sessions.answer(request.reply_to, Response(204))
    assert [number for number, _ in host.sessions.take_output(now)[0]] == [stream], "an answer leaves alone"
    for _ in range(3):
        assert host.sessions.take_output(now + 0.9 * LEFT_SECONDS_MAX, is_busy=True) == ([], [])
    taken = [[number for number, _ in host.sessions.take_output(now, is_busy=True)[0]] for now in (now + LEFT_SECONDS_MAX, now + 1.0)]
    assert taken == [[101], []], "one now and then, however busy a node is"
    assert [number for number, _ in host.sessions.take_output(now + 1.0 + LEFT_SECONDS_MAX, is_busy=True)[0]] == [102]


def test_a_handshake_that_comes_in_pieces_while_it_waits_is_done_in_its_turn() -> None:
    host = Host()
    for number in range(100, 100 + HANDSHAKES_MAX):
        host.sessions.opened(number)
        host.sessions.received(number, MemoryClient().take_output())
    client = MemoryClient()
    host.sessions.opened(7)
    hello = client.take_output()
    for at in range(0, len(hello), 50):
        host.sessions.received(7, hello[at : at + 50])
    while host.sessions.has_backlog:
        for number, data in host.sessions.take_output()[0]:
            if number == 7:
                client.receive(data)
    host.clients = {7: client}
    host.carry()
    host.send(7, GET)
    assert len(host.sessions.take_requests()) == 1


def test_what_waits_of_a_handshake_is_bounded() -> None:
    host = Host()
    for number in range(100, 100 + HANDSHAKES_MAX):
        host.sessions.opened(number)
        host.sessions.received(number, MemoryClient().take_output())
    host.sessions.opened(7)
    for _ in range(UNREAD_SIZE_BYTES_MAX // 1_000 + 1):
        host.sessions.received(7, bytes(1_000))
    assert host.sessions.tls_failed == 1
    assert 7 in host.sessions.take_output()[1]


def test_unfinished_requests_of_all_sessions_together_are_bounded() -> None:
    host = Host(SessionLimits(buffered_bytes=100_000, request=Limits()))
    streams = [host.open() for _ in range(5)]
    for stream in streams:
        host.send(stream, b"PUT / HTTP/1.1\r\nhost: n\r\ncontent-length: 50000\r\n\r\n" + b"x" * 30_000)
    refused = [stream for stream in streams if host.clients[stream].plaintext]
    assert refused == streams[3:]
    assert host.status(streams[4]) == 503
    for stream in streams[:3]:  # the others finish, and what they held is free again
        host.send(stream, b"x" * 20_000)
        if stream == streams[0]:
            late = host.open()
            host.send(late, b"PUT / HTTP/1.1\r\nhost: n\r\ncontent-length: 50000\r\n\r\n" + b"x" * 30_000)
            assert host.clients[late].plaintext == b""
    assert len(host.sessions.take_requests()) == 3
    host.sessions.closed(late)
    assert host.sessions._buffered == 0


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_host_that_mutates_and_cuts_never_makes_an_exception(data: st.DataObject) -> None:
    host = Host()
    stream = host.open()
    wire = b""
    for _ in range(data.draw(st.integers(1, 3))):
        host.clients[stream].send(GET)
        wire += host.clients[stream].take_output()
    raw = bytearray(wire)
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(1, 200))
    for start in range(0, len(raw), cut):
        host.sessions.received(stream, bytes(raw[start : start + cut]))
        host.sessions.take_output()
    requests = host.sessions.take_requests()
    assert all(item.path == "/app/commit" for item in requests)  # what gets through is what was sent
    if bytes(raw) == wire:
        assert len(requests) == wire.count(b"\x17\x03\x03")


def test_a_new_certificate_is_shown_to_new_sessions_only() -> None:
    host = Host()
    old = host.open()
    renewed = identity("node, renewed")
    assert isinstance(renewed.key, ec.EllipticCurvePrivateKey)
    host.sessions.use(TlsContext.for_clients([renewed.certificate], renewed.key))
    new = host.open()
    shown = [host.clients[stream].connection.get_peer_certificate(as_cryptography=True) for stream in (old, new)]
    assert shown == [SERVER.certificate, renewed.certificate]
    host.send(old, GET)
    assert len(host.sessions.take_requests()) == 1
