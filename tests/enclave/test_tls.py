"""TLS in memory: whom a server accepts, what it reports of a caller, and that bytes may be cut anywhere."""

import datetime
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto

from ledgerd.enclave.tls import RECORD_SIZE_BYTES_MAX, TlsConnection, TlsContext
from ledgerd.ledger.errors import IntegrityError, UsageError
from support.tls import Identity, MemoryClient, identity

SERVER = identity("node")
DAY = datetime.timedelta(days=1)


assert isinstance(SERVER.key, ec.EllipticCurvePrivateKey)
SERVER_KEY = SERVER.key


def server_context(who: Identity = SERVER) -> TlsContext:
    assert isinstance(who.key, ec.EllipticCurvePrivateKey)
    return TlsContext.for_clients([who.certificate], who.key)


SHARED_CONTEXT = server_context()


def shake(server: TlsConnection, client: MemoryClient, size: int = 1 << 16) -> bytes:
    """Carry bytes both ways, `size` at a time, until both are quiet; return the plaintext that the server got."""
    plaintext = b""
    while True:
        up = client.take_output()
        for start in range(0, len(up), size):
            plaintext += b"".join(server.feed(up[start : start + size]))
        down = server.take_output()
        if down:
            client.receive(down)
        if not up and not down:
            return plaintext


def resident_bytes() -> int:
    """Memory of this process, OpenSSL's included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


CALLERS: dict[str, Callable[[], Identity]] = {
    "P-256": lambda: identity("user", key=ec.generate_private_key(ec.SECP256R1())),
    "P-384": lambda: identity("user", key=ec.generate_private_key(ec.SECP384R1())),
    "P-521": lambda: identity("user", key=ec.generate_private_key(ec.SECP521R1())),
    "Ed25519": lambda: identity("user", key=ed25519.Ed25519PrivateKey.generate()),
    "RSA-2048": lambda: identity("user", key=rsa.generate_private_key(65537, 2048)),
    "expired": lambda: identity("user", begins=-10 * DAY, ends=-5 * DAY),
    "not yet valid": lambda: identity("user", begins=5 * DAY, ends=10 * DAY),
    "endorsed by an authority nobody knows": lambda: identity("user", issuer=identity("authority", authority=True)),
    "itself an authority": lambda: identity("user", authority=True),
}


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("kind", CALLERS)
def test_any_certificate_is_accepted_and_its_bytes_are_reported(kind: str, version: int) -> None:
    caller = CALLERS[kind]()
    server = SHARED_CONTEXT.connection()
    client = MemoryClient(caller, version=version)
    shake(server, client)
    assert server.established and client.established
    assert client.connection.get_protocol_version() == version
    assert server.peer_certificate == caller.der


def test_a_caller_without_certificate_is_accepted_and_nothing_is_reported() -> None:
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(server, client)
    assert server.established
    assert server.peer_certificate is None


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
def test_a_stolen_certificate_without_its_key_is_refused(version: int) -> None:
    victim = identity("victim")
    assert isinstance(victim.key, ec.EllipticCurvePrivateKey)
    true_key = victim.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    scalar = victim.key.private_numbers().private_value.to_bytes(48, "big")
    assert true_key.count(scalar) == 1
    # The thief knows the public half only, so its private half is a guess; OpenSSL compares public halves when it loads a pair.
    forged_key = crypto.load_privatekey(crypto.FILETYPE_ASN1, true_key.replace(scalar, bytes(47) + b"\x07"))
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(victim.certificate)
    with pytest.warns(DeprecationWarning):
        context.use_privatekey(forged_key)
    server = SHARED_CONTEXT.connection()
    client = MemoryClient(context=context, version=version)
    with pytest.raises(SSL.Error):
        shake(server, client)
    assert server.closed and not server.established
    assert "signature" in (server.error or "")
    assert server.peer_certificate is None


def test_tls_1_1_is_refused_with_an_alert() -> None:
    server = SHARED_CONTEXT.connection()
    hello = bytes.fromhex("16030100360100003203020000000000000000000000000000000000000000000000000000000000000000") + bytes.fromhex(
        "00000a002fc013c014000500ff01000000"
    )
    hello = hello[:3] + (len(hello) - 5).to_bytes(2, "big") + hello[5:6] + (len(hello) - 9).to_bytes(3, "big") + hello[9:]
    assert server.feed(hello) == []
    assert server.closed and server.error
    assert server.take_output()[0] == 21  # an alert record


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([b"ledgerd/1", b"http/1.1"], b"ledgerd/1"),
        ([b"http/1.1", b"ledgerd/1"], b"ledgerd/1"),
        ([b"h2", b"http/1.1"], b"http/1.1"),
        ([b"http/1.1"], b"http/1.1"),
        ([b"h2"], b""),
        (None, b""),
    ],
)
def test_alpn_follows_the_server_preference(offered: list[bytes] | None, chosen: bytes) -> None:
    server = SHARED_CONTEXT.connection()
    shake(server, MemoryClient(protocols=offered))
    assert server.established
    assert server.alpn == chosen


def test_silent_clients_hold_no_buffers() -> None:
    """`scripts/crowd` shows what that saves; here only that nobody switches it off."""
    assert server_context()._context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
def test_a_resumed_session_keeps_the_identity_of_its_client(version: int) -> None:
    context = server_context()
    alice = MemoryClient(identity("alice"), version=version)
    server = context.connection()
    shake(server, alice)
    alice_der = server.peer_certificate
    assert alice_der is not None
    nobody = MemoryClient(version=version)
    server = context.connection()
    shake(server, nobody)

    for client, expected in ((alice, alice_der), (nobody, None)):
        ticket = client.connection.get_session()
        assert ticket is not None
        again = MemoryClient(context=client.context, session=ticket)
        server = context.connection()
        shake(server, again)
        assert server.established
        assert session_reused(server)
        assert server.peer_certificate == expected


def session_reused(server: TlsConnection) -> bool:
    """Whether the handshake was abbreviated: then the server sent no certificate of its own."""
    connection = server._connection
    from OpenSSL._util import lib  # pyOpenSSL has no public name for it

    return bool(lib.SSL_session_reused(connection._ssl))


def test_a_ticket_of_another_context_resumes_nothing() -> None:
    client = MemoryClient(identity("alice"))
    shake(server_context().connection(), client)
    ticket = client.connection.get_session()
    assert ticket is not None
    other = server_context().connection()
    shake(other, MemoryClient(context=client.context, session=ticket))
    assert other.established
    assert not session_reused(other)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(20, 9000), min_size=1, max_size=30), sizes=st.lists(st.integers(1, 40000), min_size=1, max_size=6))
def test_plaintext_arrives_whole_wherever_the_stream_is_cut(cuts: list[int], sizes: list[int]) -> None:
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(server, client, 7)
    sent = b""
    for number, size in enumerate(sizes):
        message = bytes([number % 251]) * size
        client.send(message)
        sent += message
    stream = client.take_output()
    got = b""
    turn = 0
    while stream:
        cut = cuts[turn % len(cuts)]
        turn += 1
        got += b"".join(server.feed(stream[:cut]))
        stream = stream[cut:]
    assert got == sent
    assert not server.closed


def test_records_fed_one_by_one_and_byte_by_byte_are_read_at_once() -> None:
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(server, client)
    for size in (1, 100, RECORD_SIZE_BYTES_MAX):
        client.send(b"a" * size)
        assert b"".join(server.feed(client.take_output())) == b"a" * size
        client.send(b"b" * size)
        record = client.take_output()
        for index in range(len(record) - 1):
            assert server.feed(record[index : index + 1]) == []
        assert b"".join(server.feed(record[-1:])) == b"b" * size


def test_the_rest_of_a_record_that_looks_like_a_whole_one_is_read_to_its_end() -> None:
    """`feed` saves a read when a piece is exactly one record by its header; the middle of a record may look like that too."""
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(server, client)
    while True:
        client.send(b"first" * 3000)
        first = client.take_output()
        cuts = [cut for cut in range(6, 5000) if len(first) - cut + 50 < (first[cut + 3] << 8 | first[cut + 4]) < 15000]
        if cuts:
            break
        assert b"".join(server.feed(first)) == b"first" * 3000
    cut = cuts[0]
    missing = 5 + (first[cut + 3] << 8 | first[cut + 4]) - (len(first) - cut)
    second = b"x" * (missing - 22)  # 22: header, content type and tag of a TLS 1.3 record
    client.send(second)
    piece = first[cut:] + client.take_output()
    assert len(piece) == 5 + (piece[3] << 8 | piece[4])
    assert server.feed(first[:cut]) == []
    assert b"".join(server.feed(piece)) == b"first" * 3000 + second


def test_the_servers_answer_of_many_records_is_taken_in_one_piece() -> None:
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(server, client)
    server.write(b"x" * 100)
    server.write(b"y" * 1_000_000)
    server.write(b"z" * 100_000)
    server.write(b"end")
    client.receive(server.take_output())
    assert client.plaintext == b"x" * 100 + b"y" * 1_000_000 + b"z" * 100_000 + b"end"
    assert server.take_output() == b""


def test_a_connection_keeps_no_memory_of_the_size_of_an_answer_that_it_gave() -> None:
    """A thousand clients who each asked for megabytes once, and then say nothing, would hold gigabytes of an enclave."""
    connections = []
    for _ in range(16):
        server, client = SHARED_CONTEXT.connection(), MemoryClient()
        shake(server, client)
        connections.append(server)
    before = resident_bytes()
    answer = b"z" * (8 << 20)
    for server in connections:
        server.write(answer)
        assert len(server.take_output()) > len(answer)
    assert resident_bytes() - before < 48 << 20


def test_a_flipped_bit_ends_the_connection_and_yields_no_plaintext() -> None:
    for position in (0, 2, 4, 5, 20, -1):
        server = SHARED_CONTEXT.connection()
        client = MemoryClient()
        shake(server, client)
        client.send(b"transfer 100")
        record = bytearray(client.take_output())
        record[position] ^= 1
        got = server.feed(bytes(record)) + server.feed(bytes(1 << 15))
        assert got == []
        assert server.closed and server.error
        assert server.feed(b"more") == []


def test_one_broken_connection_leaves_another_unharmed() -> None:
    good = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(good, client)
    for _ in range(3):
        bad = SHARED_CONTEXT.connection()
        bad.feed(b"GET / HTTP/1.1\r\n\r\n")
        assert bad.closed
        half = client.connection
        assert half is not None
        client.send(b"ping")
        record = client.take_output()
        assert good.feed(record[:7]) == []
        assert good.feed(record[7:]) == [b"ping"]


def test_an_orderly_end_is_no_error_and_is_answered() -> None:
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    shake(server, client)
    client.send(b"last")
    client.connection.shutdown()
    assert server.feed(client.take_output()) == [b"last"]
    assert server.closed and server.error is None
    server.write(b"answer")  # a client may close its side first
    server.close()
    client.receive(server.take_output())
    assert client.plaintext == b"answer"
    assert client.ended


@given(st.binary(max_size=600))
def test_random_bytes_never_raise(data: bytes) -> None:
    server = SHARED_CONTEXT.connection()
    assert server.feed(data) == []
    assert not server.established
    server.take_output()


@given(st.binary(min_size=1, max_size=300), st.integers(0, 5000))
def test_random_bytes_inside_a_handshake_never_raise(data: bytes, at: int) -> None:
    server = SHARED_CONTEXT.connection()
    client = MemoryClient()
    hello = client.take_output()
    at %= len(hello)
    server.feed(hello[:at] + data + hello[at:])
    server.take_output()
    assert not server.established


def test_writing_before_the_handshake_is_a_bug_of_ours() -> None:
    with pytest.raises(UsageError):
        SHARED_CONTEXT.connection().write(b"x")


def test_a_client_needs_a_check() -> None:
    with pytest.raises(UsageError):
        TlsContext.for_dialled().connection()


def dial(check: Callable[[list[bytes]], None], chain: list[Identity]) -> tuple[TlsConnection, TlsConnection]:
    key = chain[0].key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    server = TlsContext.for_clients([item.certificate for item in chain], key).connection()
    client = TlsContext.for_dialled().connection(check)
    for _ in range(6):
        server.feed(client.take_output())
        client.feed(server.take_output())
    return client, server


def test_the_check_sees_the_whole_chain_leaf_first() -> None:
    service = identity("service", authority=True)
    node = identity("node", issuer=service)
    seen: list[list[bytes]] = []
    client, server = dial(seen.append, [node, service])
    assert seen == [[node.der, service.der]]
    assert client.established and server.established


def test_a_server_that_fails_the_check_gets_nothing_from_us() -> None:
    def refuse(_: list[bytes]) -> None:
        raise IntegrityError("not the service that was pinned")

    client, server = dial(refuse, [SERVER])
    assert client.closed and not client.established
    assert client.error == "not the service that was pinned"
    assert isinstance(client.refusal, IntegrityError)
    assert not server.established
    with pytest.raises(UsageError):
        client.write(b"secret")


NAMED = identity("ledger.example.org", key=ec.generate_private_key(ec.SECP256R1()))
BY_NAME = TlsContext.for_clients([SERVER.certificate], SERVER_KEY, named={"ledger.example.org": server_context(NAMED)})


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, SERVER),
        ("localhost", SERVER),
        ("ledger.example.org", NAMED),
        ("Ledger.Example.ORG", NAMED),
        ("x.ledger.example.org", SERVER),
        ("ledger.example.org.", SERVER),
    ],
)
def test_a_client_is_served_with_the_name_that_it_asks_for(asked: str | None, shown: Identity, version: int) -> None:
    caller = identity("user")
    server = BY_NAME.connection()
    client = MemoryClient(caller, version=version, server_name=asked, protocols=[b"http/1.1"])
    shake(server, client)
    assert client.established and server.established
    assert client.connection.get_peer_certificate(as_cryptography=True) == shown.certificate
    assert server.peer_certificate == caller.der, "callers are asked for their certificates under every name"
    assert server.alpn == b"http/1.1"


def test_a_session_of_one_name_resumes_with_the_identity_of_its_client() -> None:
    caller = identity("user")
    server = BY_NAME.connection()
    client = MemoryClient(caller, server_name="ledger.example.org")
    shake(server, client)
    session = client.connection.get_session()
    assert session is not None
    server = BY_NAME.connection()
    again = MemoryClient(session=session, context=client.context, server_name="ledger.example.org")
    shake(server, again)
    assert server.established
    assert server.peer_certificate == caller.der
