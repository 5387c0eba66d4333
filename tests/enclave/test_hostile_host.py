"""Hosts, peers' operators and clients that do their worst: a typed refusal or nothing, never a wrong state and never a dead enclave."""

import json
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.apps.logging import app
from ledgerd.enclave import admission, answering, boundary, joining
from ledgerd.enclave.admission import Nonces
from ledgerd.enclave.app import App, Context, RequestError
from ledgerd.enclave.archive import RECEIPTS_MAX
from ledgerd.enclave.boundary import CLIENT, OUTBOUND, PEER, Event
from ledgerd.enclave.documents import DOCUMENTS_MAX
from ledgerd.enclave.throttle import BURST, SECONDS
from ledgerd.enclave.tls import PIPELINE_PROTOCOL, TlsContext
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.errors import HostError, IntegrityError, PeerError
from ledgerd.ledger.signature import TREE
from support.cluster import Client, Cluster, Host

ID = "x-ms-ccf-transaction-id"


class Wires:
    """Lets a network keep back what it carries, in order, and hand it over later: nothing is lost, so channels live on."""

    def __init__(self, cluster: Cluster) -> None:
        self.kept: list[tuple[Host, int, bytes]] = []
        self.keeps: Callable[[Host, Host], bool] = lambda a, b: False
        self._carry = cluster._carry
        cluster._carry = self.carry  # type: ignore[method-assign]

    def carry(self, host: Host, stream: int, data: bytes) -> None:
        end = host.streams.get(stream, (None, 0))[0]
        if isinstance(end, Host) and (self.keeps(host, end) or any(kept[:2] == (host, stream) for kept in self.kept)):
            self.kept.append((host, stream, data))
        else:
            self._carry(host, stream, data)

    def allow(self, keeps: Callable[[Host, Host], bool]) -> None:
        """From now on keep back between these only; what was kept for others goes its way."""
        self.keeps = keeps
        kept, self.kept = self.kept, []
        for host, stream, data in kept:
            self.carry(host, stream, data)


def all_but(*groups: set[str]) -> Callable[[Host, Host], bool]:
    """Keeps back everything but within each group."""
    return lambda a, b: not any(a.name in group and b.name in group for group in groups)


def status(client: Client, transaction: str) -> str:
    answer: str = json.loads(client.ask("GET", f"/app/tx?transaction_id={transaction}").body)["status"]
    return answer


def leader(cluster: Cluster, *names: str) -> Host:
    """Run until one of these is primary."""
    hosts = [cluster.hosts[name] for name in names]
    for host in hosts:
        host.notices.pop("role", None)
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in hosts))
    return next(host for host in hosts if host.notices.get("role") == "primary")


# What is final and what is not.


def test_invalid_is_never_said_of_what_a_later_primary_may_still_commit() -> None:
    cluster = Cluster(app)
    old, *_ = cluster.start(3)
    cluster.run(0.3)
    wires = Wires(cluster)
    wires.allow(all_but({"n1", "n2"}))
    transaction = cluster.client(old).ask("PUT", "/app/records/k", b"v").headers[ID]
    new = leader(cluster, "n1", "n2")
    other = ({"n1", "n2"} - {new.name}).pop()
    wires.allow(all_but())  # before anything of the new view reaches the other
    cluster.run(0.1)
    assert len(new.entries) >= int(transaction.split(".")[1]), "the new primary has an entry of its own in that place"
    said = status(cluster.client(new), transaction)
    cluster.run(2)
    new.alive = False
    wires.allow(all_but({"n0", other}))
    cluster.until(lambda: status(cluster.client(old), transaction) == "Committed")
    assert said == "Unknown"


def test_a_client_is_not_told_that_a_write_was_undone_while_another_node_may_still_commit_it() -> None:
    cluster = Cluster(app)
    old, *_ = cluster.start(5)
    cluster.run(0.3)
    wires = Wires(cluster)
    wires.allow(all_but({"n0", "n1"}, {"n2", "n3", "n4"}))
    client = cluster.client(old)
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.2)
    new = leader(cluster, "n2", "n3", "n4")
    rest = sorted({"n2", "n3", "n4"} - {new.name})
    wires.allow(all_but({"n0", new.name}))
    cluster.until(lambda: any("no longer primary" in text for _, text in old.logs))
    cluster.run(0.3)
    assert old.entries[-1] == new.entries[-1], "the write was rolled back where the client waits for it"
    assert client.answers == []
    new.alive = False
    wires.allow(all_but({"n1", *rest}))
    leader(cluster, "n1", *rest)
    wires.allow(all_but({"n0", "n1", *rest}))
    cluster.until(lambda: client.answers != [])
    assert client.answers[0].status == 204
    assert status(cluster.client(cluster.hosts["n1"]), client.answers[0].headers[ID]) == "Committed"


# What many can ask for at little cost.


class Pipeline(Client):
    """A client that sends many requests in one stream of bytes, as `ledgerd/1` allows."""

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self.got: list[tuple[int, bytes]] = []
        self.is_closed = False
        self._host = host
        self._buffer = bytearray()
        self._tls = TlsContext.for_dialled(protocols=[PIPELINE_PROTOCOL]).connection(lambda chain: None)
        self._stream = cluster.open_stream(self, 0, host, CLIENT)
        self._flush()
        cluster.until(lambda: self._tls.established)

    def send(self, *requests: tuple[str, str, dict[str, str], bytes]) -> None:
        """Hand over method, target, headers and body of each in one go."""
        frames = [msgpack.packb([number, *request]) for number, request in enumerate(requests)]
        self._tls.write(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        self._flush()

    def received(self, data: bytes) -> None:
        for chunk in self._tls.feed(data):
            self._buffer += chunk
        while len(self._buffer) >= 4 and len(self._buffer) >= (size := 4 + int.from_bytes(self._buffer[:4], "big")):
            _, status, _, body = msgpack.unpackb(bytes(self._buffer[4:size]))
            self.got.append((status, body))
            del self._buffer[:size]
        self._flush()

    def _flush(self) -> None:
        data = self._tls.take_output()
        if data:
            self._host.inbox.append(boundary.Received(self._stream, data))


@pytest.fixture
def single() -> tuple[Cluster, Host]:
    """A service of one node."""
    cluster = Cluster(app)
    return cluster, cluster.start(1)[0]


def test_documents_for_anybody_are_bounded_and_the_rest_hear_that_the_node_is_busy(single: tuple[Cluster, Host]) -> None:
    cluster, host = single
    client = Pipeline(cluster, host)
    asked = DOCUMENTS_MAX + 36
    client.send(*[("GET", f"/node/attestations/self?nonce={'00' * 32}", {}, b"")] * asked)
    cluster.until(lambda: len(client.got) == asked)
    statuses = [status for status, _ in client.got]
    assert statuses.count(200) == DOCUMENTS_MAX
    assert statuses.count(503) == 36
    client.send(("GET", f"/node/attestations/self?nonce={'00' * 32}", {}, b""))
    cluster.until(lambda: len(client.got) == asked + 1)
    assert client.got[-1][0] == 200, "and it is not busy for ever"


def test_transactions_commit_while_the_security_module_is_kept_busy(single: tuple[Cluster, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, host = single
    monkeypatch.setattr(host.enclave, "jobs", list)  # nothing that is asked of it, or verified, ever ends
    asking = Pipeline(cluster, host)
    asking.send(*[("GET", f"/node/attestations/self?nonce={'00' * 32}", {}, b"")] * DOCUMENTS_MAX)
    assert cluster.client(host).ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204
    assert asking.got == []


def test_receipts_from_the_disk_are_bounded_while_the_host_does_not_answer(single: tuple[Cluster, Host]) -> None:
    cluster, host = single
    transaction = cluster.client(host).ask("PUT", "/app/records/k", b"v", prefer="committed").headers[ID]
    silence = cluster._read
    cluster._read = lambda host, fetch: []  # type: ignore[method-assign]
    client = Pipeline(cluster, host)
    asked = RECEIPTS_MAX + 44
    client.send(*[("GET", f"/app/receipt?transaction_id={transaction}", {}, b"")] * asked)
    cluster.until(lambda: len(client.got) == asked)
    statuses = [status for status, _ in client.got]
    assert statuses.count(404) == RECEIPTS_MAX
    assert statuses.count(503) == 44
    cluster._read = silence  # type: ignore[method-assign]
    client.send(("GET", f"/app/receipt?transaction_id={transaction}", {}, b""))
    cluster.until(lambda: len(client.got) == asked + 1)
    assert client.got[-1][0] == 200


# What an operator may write into its own node's configuration, and a stranger into a request to join.


def started(change: Callable[[dict[str, Any]], None]) -> Host:
    """A node of a new service with a changed configuration, run until it is refused or open."""
    cluster = Cluster(app)
    start = {
        "members": [{"certificate": cluster.member.pem, "data": None}],
        "users": [],
        "measurements": [],
        "constitution": "",
        "admission": "automatic",
        "open_at_nodes": 1,
        "application_policy": "open",
        "service_subject": "CN=Test Service",
        "curve": "secp256r1",
    }
    document = json.loads(cluster.configuration("n0", "start", start=start))
    change(document)
    host = cluster.add("n0", json.dumps(document).encode())
    cluster.until(lambda: bool(host.notices.get("refused") or host.notices.get("open")), 5)
    return host


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d["node"]["rpc"].update(host="a\r\nset-cookie: b"), id="an address that breaks out of a header"),
        pytest.param(lambda d: d["node"]["rpc"].update(host="b\u00fccher"), id="an address that no header can carry"),
        pytest.param(lambda d: d["node"]["peer"].update(host="a b"), id="an address with a space"),
        pytest.param(lambda d: d["node"].update(names=["b\u00fccher"]), id="a name that no certificate can carry"),
        pytest.param(lambda d: d["node"].update(names=["a"] * 33), id="more names than a joiner may have"),
        pytest.param(lambda d: d["node"].update(data=nested(800)), id="data deeper than others can read"),
        pytest.param(lambda d: d["node"].update(data="x" * 20_000), id="data without end"),
        pytest.param(lambda d: d["node"].update(data=float("nan")), id="data that is no JSON"),
        pytest.param(lambda d: d["node"].update(data="\ud800"), id="data with half a character"),
        pytest.param(lambda d: d["start"].update(constitution="\ud800"), id="a constitution with half a character"),
        pytest.param(lambda d: d["start"].update(curve="secp521r1"), id="a curve that joiners refuse"),
        pytest.param(lambda d: d["start"]["members"][0].update(encryption_key=7), id="an encryption key that is a number"),
        pytest.param(lambda d: d["start"]["members"][0].update(certificate="-----BEGIN"), id="a certificate that is none"),
    ],
)
def test_a_configuration_that_others_could_not_bear_is_refused_with_its_key(change: Callable[[dict[str, Any]], None]) -> None:
    host = started(change)
    assert host.stopped == 1
    assert host.notices["refused"]


def test_the_configuration_that_those_change_is_taken() -> None:
    assert started(lambda d: None).stopped is None


@pytest.fixture
def join_request(monkeypatch: pytest.MonkeyPatch) -> tuple[Cluster, dict[str, Any]]:
    """A service of one node, and the request with which a second asked to join."""
    bodies: list[bytes] = []
    ask = joining.Joining._ask

    def recording(this: joining.Joining, method: str, path: str, body: bytes, then: Any) -> None:
        if path == "/node/join":
            bodies.append(body)
        ask(this, method, path, body, then)

    monkeypatch.setattr(joining.Joining, "_ask", recording)
    cluster = Cluster(app)
    cluster.start(2)
    return cluster, json.loads(bodies[0])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d["node_info_network"].update(rpc="a\r\nb:1"), id="an address that breaks out of a header"),
        pytest.param(lambda d: d["node_info_network"].update(peer="\u00fc:1"), id="an address that no header can carry"),
        pytest.param(lambda d: d["node_info_network"].update(peer="[:/:1"), id="an address that no URL can carry"),
        pytest.param(lambda d: d.update(node_data=nested(900)), id="data deeper than others can read"),
        pytest.param(lambda d: d.update(node_data=[float("nan")]), id="data that is no JSON"),
        pytest.param(lambda d: d.update(node_data="\ud800"), id="data with half a character"),
        pytest.param(lambda d: d["configuration"].update(x=0.5), id="a configuration with a fraction"),
        pytest.param(lambda d: d["configuration"].update(x=nested(100)), id="a configuration without end"),
        pytest.param(lambda d: d.update(public_encryption_key="AAAA"), id="a short key"),
        pytest.param(lambda d: d.update(certificate_signing_request="-----BEGIN"), id="a certificate request that is none"),
    ],
)
def test_a_request_to_join_that_others_could_not_bear_is_a_400(
    join_request: tuple[Cluster, dict[str, Any]], change: Callable[[dict[str, Any]], None]
) -> None:
    cluster, body = join_request
    change(body)
    host = cluster.hosts["n0"]
    lines = len(host.entries)
    answer = cluster.client(host).ask("POST", "/node/join", json.dumps(body).encode())
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == "InvalidInput"
    assert len(host.entries) == lines


def test_a_thousand_documents_at_once_are_not_verified_and_a_joiner_from_elsewhere_is_admitted(
    join_request: tuple[Cluster, dict[str, Any]],
) -> None:
    cluster, body = join_request
    host = cluster.hosts["n0"]
    serving = host.enclave._serving
    assert serving is not None

    nonces = serving._admission._nonces

    def stale() -> bytes:
        """What costs most: all is genuine, but made for another nonce."""
        return json.dumps({**body, "nonce": nonces.give(cluster.now).hex()}).encode()

    stranger = cluster.client(host)
    for _ in range(1_000):
        stranger.start("POST", "/node/join", stale())
    cluster.until(lambda: len(stranger.answers) == 1_000)
    assert [answer.status for answer in stranger.answers] == [401] * BURST + [429] * (1_000 - BURST)
    late = cluster.join("n2")
    cluster.until(lambda: late.notices.get("open") == "yes")
    cluster.run(BURST * SECONDS)
    assert stranger.ask("POST", "/node/join", stale()).status == 401, "and not for ever"


def test_who_asks_to_join_without_end_does_not_fill_the_log(join_request: tuple[Cluster, dict[str, Any]]) -> None:
    """What is refused before a document is looked at is not rationed, and one session can ask for thousands a second."""
    cluster, body = join_request
    host = cluster.hosts["n0"]
    stranger, another = cluster.client(host), cluster.client(host)
    invented = json.dumps({**body, "nonce": bytes(32).hex()}).encode()

    def told() -> list[str]:
        return [text for _, text in host.logs if "refused a node that asked to join" in text]

    before = len(told())
    for _ in range(1_000):
        stranger.start("POST", "/node/join", invented)
    cluster.until(lambda: len(stranger.answers) == 1_000)
    assert {answer.status for answer in stranger.answers} == {401}, "whoever asks is told each time"
    assert len(told()) == before + BURST
    cluster.run(BURST * SECONDS)
    assert another.ask("POST", "/node/join", invented).status == 401
    assert told()[-1].endswith(f"(and {1_000 - BURST} more before that)"), "nor is it hidden"


def test_nonces_given_to_others_do_not_use_up_those_of_a_joiner() -> None:
    nonces = Nonces()
    mine = nonces.give(0.0)
    for _ in range(10_000):
        nonces.give(1.0)
    nonces.redeem(mine, 2.0)
    nonces.give(100.0)
    assert len(nonces._given) == 1, "those that have expired are forgotten"


def test_a_joiner_refuses_a_server_certificate_that_no_library_reads_and_tries_again() -> None:
    cluster = Cluster(app)
    first = cluster.start(1)[0]
    joiner = cluster.join("n1")
    cluster.until(lambda: joiner.enclave._joining is not None)
    connection = joiner.enclave._joining
    assert connection is not None
    genuine = x509.load_pem_x509_certificate(first.notices["service_certificate"].encode()).public_bytes(Encoding.DER)
    strange = genuine.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)  # X.509 version 8
    assert strange != genuine
    for chain in ([strange], [b""], [genuine[:-9]], []):
        with pytest.raises(IntegrityError):
            connection._check_server(chain)


def test_a_joiner_whose_server_ends_the_connection_between_two_steps_tries_again() -> None:
    cluster = Cluster(app)
    first = cluster.start(1)[0]
    first.stores = False  # so that the joiner stays Pending, and polls
    joiner = cluster.join("n1")
    cluster.until(lambda: any("asks to join" in text for _, text in first.logs))
    cluster.run(0.1)
    connection = joiner.enclave._joining
    assert connection is not None and connection._client is not None
    connection._client.reusable = False  # as after the server's closing alert, when the host keeps back that the stream is closed
    cluster.run(0.5)
    host = cluster.hosts["n0"]
    first.stores = True
    host.inbox.append(boundary.Stored(0, 2, len(host.entries)))
    cluster.until(lambda: joiner.notices.get("open") == "yes")


def test_an_admitted_joiner_gives_its_session_at_the_other_node_back() -> None:
    cluster = Cluster(app)
    first = cluster.start(2)[0]
    cluster.run(0.1)
    assert first.enclave._sessions is not None
    assert first.enclave._sessions.active == 0


def test_an_application_s_error_with_a_header_that_cannot_be_printed_ends_the_request_only() -> None:
    broken = App("broken")

    @broken.get("/redirect", policies=["no_auth"])
    def redirect(ctx: Context) -> str:
        raise RequestError(400, "InvalidInput", "no", (("location", "a\r\nset-cookie: b"),))

    cluster = Cluster(broken)
    client = cluster.client(cluster.start(1)[0])
    assert client.ask("GET", "/app/redirect").status == 500
    assert client.ask("GET", "/app/commit").status == 200


def test_what_others_choose_to_be_logged_stays_on_its_line() -> None:
    cluster = Cluster(app)
    host = cluster.start(1)[0]
    host.enclave.log("warning", "from a certificate: \x1b[2J\nerror: all is well")
    cluster.run(0.3)
    assert host.logs[-1] == ("warning", "from a certificate: ?[2J?error: all is well")


@pytest.fixture
def ready_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes for clients in every `Ready` of every node."""
    sizes: list[int] = []
    obey = Cluster._obey

    def measuring(this: Cluster, host: Host, ready: boundary.Ready) -> None:
        sizes.append(sum(len(data) for _, data in ready.client_bytes))
        obey(this, host, ready)

    monkeypatch.setattr(Cluster, "_obey", measuring)
    return sizes


def test_a_few_bytes_that_ask_for_many_do_not_make_the_node_hold_them_all(
    single: tuple[Cluster, Host], ready_bytes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "ANSWERED_BYTES_MAX", 1 << 20)
    cluster, host = single
    size = 256 << 10
    cluster.client(host).ask("PUT", "/app/records/k", b"x" * size)
    client = Pipeline(cluster, host)
    client.send(*[("GET", "/app/records/k", {}, b"")] * 60)
    cluster.until(lambda: len(client.got) == 60)
    assert {(status, len(body)) for status, body in client.got} == {(200, size)}
    assert max(ready_bytes) < (1 << 20) + 2 * size


def test_requests_that_are_cheap_to_send_are_executed_a_bounded_number_at_a_time(
    single: tuple[Cluster, Host], ready_bytes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "EXECUTED_MAX", 20)
    cluster, host = single
    client = Pipeline(cluster, host)
    before = len(ready_bytes)
    now = cluster.now
    client.send(*[("GET", "/node/version", {}, b"")] * 200)
    cluster.until(lambda: len(client.got) == 200)
    assert sum(1 for size in ready_bytes[before:] if size) >= 10
    assert cluster.now - now < 0.05, "the rest does not wait for a tick"


def test_large_bodies_are_read_one_after_the_other_with_heartbeats_in_between(
    single: tuple[Cluster, Host], ready_bytes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty bodies whose last byte comes in one frame: reading them all could take longer than an election timeout."""
    monkeypatch.setattr(answering, "EXECUTED_BYTES_MAX", 10_000)
    cluster, host = single
    client = Pipeline(cluster, host)
    before = len(ready_bytes)
    now = cluster.now
    client.send(*[("PUT", "/app/records/k", {}, b"x" * 9_000)] * 30)
    cluster.until(lambda: len(client.got) == 30)
    assert {status for status, _ in client.got} == {204}
    assert sum(1 for size in ready_bytes[before:] if size) >= 15
    assert cluster.now - now < 0.05, "the rest does not wait for a tick"


def test_what_anybody_may_send_to_governance_and_admission_takes_no_time_to_refuse(single: tuple[Cluster, Host]) -> None:
    cluster, host = single
    client = cluster.client(host)
    maps = 1_000_000
    envelope = b"\xd2\x84\x40\xa1\x01\x9a" + maps.to_bytes(4, "big") + b"\xa0" * maps + b"\x40\x40"  # seconds of cbor2's time
    answer = client.ask("POST", "/gov/members/proposals:create?api-version=2024-07-01", envelope, content_type="application/cose")
    assert answer.status == 401 and b"more than 4096 items" in answer.body
    lists = b"[" + b"[]," * 340_000 + b"0]"  # a third of a second of json's
    looked_at: list[int] = []
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(admission.json, "loads", lambda body: looked_at.append(len(body)))  # type: ignore[attr-defined]
        answer = client.ask("POST", "/node/join", lists, content_type="application/json")
    assert answer.status == 400
    assert looked_at == []


def test_requests_beyond_what_may_wait_are_refused_at_once(single: tuple[Cluster, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "QUEUED_MAX", 50)
    monkeypatch.setattr(answering, "EXECUTED_MAX", 10)
    cluster, host = single
    client = Pipeline(cluster, host)
    client.send(*[("GET", "/node/version", {}, b"")] * 80)
    cluster.until(lambda: len(client.got) == 80)
    statuses = [status for status, _ in client.got]
    assert statuses.count(200) == 50
    assert statuses[:30] == [503] * 30


def test_a_user_does_not_wait_for_what_a_stranger_has_sent_before(single: tuple[Cluster, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """One session without a certificate may have thousands wait; and together with others, so many that nothing more is taken."""
    monkeypatch.setattr(answering, "QUEUED_TOGETHER", 20)
    monkeypatch.setattr(answering, "STRANGERS_MIN", 5)
    monkeypatch.setattr(answering, "EXECUTED_MAX", 30)
    monkeypatch.setattr(answering, "QUEUED_MAX", 1_000)
    cluster, host = single
    stranger, user = Pipeline(cluster, host), cluster.client(host, cluster.user)
    user.ask("GET", "/node/version")
    stranger.send(*[("PUT", f"/app/public/records/{number}", {}, b"v") for number in range(1_500)])
    assert user.ask("PUT", "/app/records/k", b"w", prefer="committed").status == 204
    assert sum(status == 204 for status, _ in stranger.got) < 200
    cluster.until(lambda: len(stranger.got) == 1_500)
    statuses = [status for status, _ in stranger.got]
    assert statuses.count(503) == 1_500 - 1_000 - 20
    keys = [int(key) for data in host.entries for key in read_public(data).writes.get("public:records", {})]
    assert keys == list(range(1_020)), "in the order in which they were sent"


def test_bodies_of_requests_that_wait_are_bounded(single: tuple[Cluster, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "QUEUED_BYTES_MAX", 10_000)
    cluster, host = single
    client = Pipeline(cluster, host)
    for _ in range(2):  # so what was counted is given back
        client.got.clear()
        client.send(*[("PUT", "/app/records/k", {}, b"x" * 1000)] * 40)
        cluster.until(lambda: len(client.got) == 40)
        statuses = [status for status, _ in client.got]
        assert statuses.count(503) > 20
        assert statuses.count(204) == 11


def test_answers_to_reads_that_wait_for_confirmation_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "HELD_BYTES_MAX", 100_000)
    cluster = Cluster(app)
    host, *_ = cluster.start(3)
    cluster.client(host).ask("PUT", "/app/records/k", b"x" * 30_000, prefer="committed")
    client = Pipeline(cluster, host)
    for _ in range(3):
        client.got.clear()
        client.send(*[("GET", "/app/records/k", {"prefer": "committed"}, b"")] * 8)
        cluster.until(lambda: len(client.got) == 8)
        statuses = [status for status, _ in client.got]
        assert (statuses.count(200), statuses.count(503)) == (3, 5)
    assert host.enclave._serving is not None
    assert host.enclave._serving._answering._held_bytes == 0


def test_a_request_or_an_answer_that_no_channel_carries_is_refused_and_both_nodes_live(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = Cluster.configuration

    def generous(this: Cluster, name: str, mode: str, **more: Any) -> bytes:
        return configuration(this, name, mode, **{**more, "limits": {"sessions": 1000, "body_bytes": 20 << 20}})

    monkeypatch.setattr(Cluster, "configuration", generous)
    large = App("large")

    @large.post("/sized", policies=["no_auth"])
    def sized(ctx: Context, size: int, body: bytes) -> bytes:
        return b"x" * size

    cluster = Cluster(large)
    _, backup = cluster.start(2)
    client = cluster.client(backup)
    assert client.ask("POST", "/app/sized?size=10", b"x" * (17 << 20)).status == 413
    assert client.ask("POST", f"/app/sized?size={17 << 20}", b"x").status == 502
    assert client.ask("POST", "/app/sized?size=10", b"x").status == 200


def test_a_forwarded_request_does_not_wait_for_ever_for_a_primary_that_its_host_keeps_silent() -> None:
    cluster = Cluster(app)
    _, backup, _ = cluster.start(3)
    cluster.run(0.3)
    wires = Wires(cluster)
    client = cluster.client(backup)
    for host in cluster.hosts.values():
        host.stores = False
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.05)
    wires.allow(all_but({"n1", "n2"}))  # for ever; no stream is ever closed
    for host in cluster.hosts.values():
        host.stores = True
    leader(cluster, "n1", "n2")
    cluster.until(lambda: client.answers != [], 40)
    assert json.loads(client.answers[0].body)["error"]["code"] == "OutcomeUnknown"


def test_a_host_that_changes_the_flags_of_a_signature_entry_does_not_end_the_peer_that_it_is_read_for() -> None:
    cluster = Cluster(app)
    first = cluster.start(1)[0]
    client = cluster.client(first)
    for number in range(40):
        client.ask("PUT", f"/app/records/{number}", b"v", prefer="committed")
    lies = {"on": True}

    def read_back(seqno: int, data: bytes) -> bytes:
        return data[:1] + b"\1" + data[2:] if lies["on"] and TREE in read_public(data).writes else data

    first.read_back = read_back
    late = cluster.join("n1")
    cluster.until(lambda: any("flags" in text for _, text in first.logs))
    cluster.run(0.3)
    assert late.stopped is None
    lies["on"] = False
    cluster.until(lambda: late.notices.get("open") == "yes")
    client.start("PUT", "/app/records/last", b"v", prefer="committed")
    cluster.run(0.3)
    assert late.stopped is None
    assert late.entries == first.entries[: len(late.entries)]


# Everything at once.


class HostileCluster(Cluster):
    """A service one of whose hosts loses, doubles, delays, mixes up, damages and makes up what it tells its enclave and the others."""

    def __init__(self, seed: int) -> None:
        super().__init__(app)
        self.random = random.Random(seed)
        self.hostile: Host | None = None
        self.late: list[Event] = []
        self.ended: str | None = None  # why the hostile host's own enclave had enough
        self.done: Counter[str] = Counter()

    def _wake(self, host: Host) -> None:
        if host is not self.hostile:
            super()._wake(host)
            return
        host.inbox.extend(self.late)
        self.late = []
        host.inbox = deque(self._twist(host, list(host.inbox)))
        try:
            super()._wake(host)
        except HostError as error:  # the runtime ends the enclave with this message
            self.ended = str(error)
            self.kill(host)

    def _carry(self, host: Host, stream: int, data: bytes) -> None:
        if host is self.hostile and self.random.random() < 0.05:
            data = self._damaged(data)
        try:
            super()._carry(host, stream, data)
        except PeerError:  # a client of ours finds its TLS broken
            self.close_stream(host, stream)

    def _twist(self, host: Host, events: list[Event]) -> list[Event]:
        chance = self.random.random
        kept: list[Event] = []
        for event in events:
            if chance() >= 0.15:
                kept.append(event)
                continue
            kind = self.random.choice(("lose", "double", "delay", "damage", "swap"))
            self.done[kind] += 1
            if kind == "double" and not isinstance(event, boundary.Opened):
                kept += [event, event]
            elif kind == "delay":
                self.late.append(event)
            elif kind == "damage":
                kept.append(self._damaged_event(event))
            elif kind == "swap":
                kept.insert(self.random.randint(0, len(kept)), event)
        if chance() < 0.2:
            kept.insert(self.random.randint(0, len(kept)), self._made_up(host))
        return kept

    def _damaged(self, data: bytes) -> bytes:
        self.done["bytes"] += 1
        at = self.random.randrange(len(data))
        flipped = data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :]
        return self.random.choice((flipped, data[: at + 1], data + data, data[at:] + data[:at], self.random.randbytes(40)))

    def _damaged_event(self, event: Event) -> Event:
        if isinstance(event, boundary.Received):
            return event._replace(data=self._damaged(event.data))
        if isinstance(event, boundary.Stored):
            near = [self.random.randint(max(0, value - 2), value + 2) for value in event]
            return boundary.Stored(*near)
        if isinstance(event, boundary.Fetched) and event.entries:
            entries = list(event.entries)
            at = self.random.randrange(len(entries))
            entries[at] = self._damaged(entries[at])
            if self.random.random() < 0.3:
                self.random.shuffle(entries)
            return event._replace(entries=entries)
        return event

    def _made_up(self, host: Host) -> Event:
        number = self.random.randint(-40, 40) or 1
        entries = self.random.sample(host.entries, min(3, len(host.entries)))
        rare = self.random.random() < 0.02
        made: Event = self.random.choice(
            [
                boundary.Received(number, self.random.randbytes(60)),
                boundary.Received(number, bytes.fromhex("160301000501000001ff")),
                boundary.Closed(number),
                boundary.Stored(self.random.randrange(4), self.random.randrange(5), self.random.randrange(100)),
                boundary.Stored(0, 2, 1 << 52),
                boundary.Fetched(abs(number), entries),
                boundary.Fetched(abs(number), [b"", self.random.randbytes(90)]),
                boundary.Opened(self.random.randint(1_000, 1 << 40), self.random.choice((CLIENT, PEER)), "?"),
                boundary.Configured(b"{}") if rare else boundary.Closed(number),
                boundary.Opened(number, OUTBOUND, "?") if rare or host.enclave._kinds.get(number) == OUTBOUND else boundary.Closed(number),
            ]
        )
        self.done[type(made).__name__] += 1
        return made


@pytest.mark.parametrize("name", ["n0", "n1"])
@pytest.mark.parametrize("seed", range(8))
def test_one_host_of_three_can_do_what_it_likes_and_nothing_acknowledged_is_lost_nor_any_ledger_forked(seed: int, name: str) -> None:
    cluster = HostileCluster(seed)
    cluster.start(3)
    cluster.run(0.3)
    hosts = cluster.hosts
    honest = [host for host in hosts.values() if host.name != name]
    client = cluster.client(hosts["n0"])
    acknowledged = {client.ask("PUT", f"/app/public/records/{key}", b"v", prefer="committed").headers[ID]: key for key in ("a", "b", "c")}
    cluster.hostile = hosts[name]
    waiting: list[tuple[Client, str, int]] = []
    for round_number in range(60):
        host = cluster.random.choice([host for host in hosts.values() if host.alive])
        client = cluster.client(host)
        client.start("PUT", f"/app/public/records/{round_number}", b"v", prefer=cluster.random.choice(("committed", "receipt")))
        waiting.append((client, str(round_number), 204))
        if acknowledged and cluster.random.random() < 0.3:
            transaction = cluster.random.choice(list(acknowledged))
            cluster.client(host).start("GET", f"/app/receipt?transaction_id={transaction}")
        cluster.run(0.03)
        for other, key, wanted in waiting:
            if other.answers and other.answers[0].status == wanted:
                acknowledged[other.answers[0].headers[ID]] = key
    cluster.hostile = None
    cluster.run(3)
    assert [host.stopped for host in honest] == [None, None], "another's host ended an honest host's enclave"
    assert cluster.hosts[name].stopped in (None, 1)
    for other, key, wanted in waiting:
        if other.answers and other.answers[0].status == wanted:
            acknowledged[other.answers[0].headers[ID]] = key
    client = cluster.writer(honest)
    for transaction, key in acknowledged.items():
        assert status(client, transaction) == "Committed"
        assert client.ask("GET", f"/app/public/records/{key}").body == b"v"
    committed = min(host.committed for host in hosts.values())
    assert len({tuple(host.entries[:committed]) for host in hosts.values()}) == 1
    both = min(host.committed for host in honest)
    assert honest[0].entries[:both] == honest[1].entries[:both]
    assert cluster.done


@pytest.mark.parametrize("seed", range(12))
def test_a_joiner_whose_host_does_what_it_likes_ends_with_a_reason_or_joins_and_hurts_nobody(seed: int) -> None:
    cluster = HostileCluster(seed)
    first = cluster.start(1)[0]
    joiner = cluster.join("n1")
    cluster.hostile = joiner
    cluster.run(2)
    cluster.hostile = None
    assert first.stopped is None
    assert (joiner.stopped is None) == ("refused" not in joiner.notices)
    if joiner.alive:
        cluster.run(12)
        assert joiner.entries[: joiner.committed] == first.entries[: joiner.committed]
