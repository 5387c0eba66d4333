"""Nothing of a private map, and no key, is ever seen outside the enclaves: not on disks, in logs, on the wires or on the links.

What clients write, in real processes: all connections pass through proxies, all links through a tee, and everything that is on the disk is
read. Secrets that the enclaves make for themselves, in one process, where the test can ask an enclave for its keys.
Each search first has to find something that is public, or it would prove nothing.
"""

import hmac
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.apps.logging import app
from ledgerd.enclave import boundary
from ledgerd.enclave.boundary import Ready
from ledgerd.governance import requests, tables
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.shares import combine, wrapping_key
from ledgerd.ledger.signature import SIGNATURES
from support.cluster import Cluster, Host
from support.https import Request, Session
from support.members import SIGNED_AT, send
from support.processes import ENDING_SECONDS_MAX, PATIENT_MS, Service
from support.recovered import decrypted
from support.traces import forms, traces

# Text that JSON, URLs and Python would each escape in its own way.
ODD = '\u20ac "quoted" \\ \U0001d11e'


def marker(name: str) -> bytes:
    return f"{name} {secrets.token_hex(12)} {ODD}".encode()


def plain(name: str) -> str:
    """A marker that may stand in a header or a path."""
    return f"{name}-{secrets.token_hex(16)}"


@pytest.mark.parametrize("how", forms(marker("any")))
def test_a_secret_is_found_in_every_form(how: str) -> None:
    secret = marker("any")
    noise = secrets.token_bytes(100)
    assert list(traces({"it": secret}, [("noise", noise)])) == []
    assert f"it in noise as {how}" in list(traces({"it": secret}, [("noise", noise + forms(secret)[how] + noise)]))


def test_a_secret_is_found_in_the_lines_of_a_pem_file() -> None:
    secret = secrets.token_bytes(48)
    for before in range(3):
        encoded = next(form for how, form in forms(secret).items() if how == f"base64 at {before}")
        lines = b"\n".join((encoded[:20], encoded[20:]))
        assert list(traces({"it": secret}, [("file", lines)]))
        assert list(traces({"it": secret}, [("file", json.dumps(lines.decode()).encode())]))


class Written:
    """What was written where, by markers."""

    def __init__(self) -> None:
        names = ("value", "value over a backup", "value of a repeated request", "second value", "deleted value", "last value")
        self.values = {name: marker(name.replace(" ", "-")) for name in names}
        self.words = {name: plain(name) for name in ("key", "unknown-key", "idempotency-key", "query", "header", "refused-body", "path")}
        self.public = marker("public")

    @property
    def secrets(self) -> dict[str, bytes]:
        return self.values | {name: word.encode() for name, word in self.words.items()}

    def write(self, service: Service) -> None:
        """Do everything that clients do with a private map, well and badly."""
        values, words = self.values, self.words
        path = f"/app/records/{words['key']}"
        first = service.primary()
        with first.session("user0") as client, service.backups()[0].session() as other:
            for session, name in ((client, "value"), (other, "value over a backup")):
                key = words["idempotency-key"] + name.replace(" ", "-")
                answer = session.ask("PUT", path, values[name], prefer="receipt", idempotency_key=key)
                assert answer.status == 204
                assert session.ask("GET", path, prefer="committed").body == values[name]
            for _ in range(2):
                repeated = {"idempotency_key": words["idempotency-key"] + "again", "prefer": "committed"}
                assert client.ask("PUT", path, values["value of a repeated request"], **repeated).status == 204
            assert client.ask("PUT", path, values["second value"], **repeated).status == 422
            assert client.ask("PUT", f"{path}2", values["deleted value"]).status == 204
            assert client.ask("DELETE", f"{path}2", prefer="committed").status == 204
            receipt = client.ask("GET", f"/app/receipt?transaction_id={answer.transaction_id}")
            assert receipt.status == 200
            assert client.ask("GET", f"/app/records/{words['unknown-key']}").status == 404
            assert client.ask("GET", f"/app/{words['path']}").status == 404
            assert client.ask("GET", f"/app/tx?transaction_id={words['query']}").status == 400
            assert client.ask("PUT", path, values["last value"], prefer=words["header"], x_marker=words["header"]).status == 204
            assert client.ask("PUT", path, b"\xff" + words["refused-body"].encode()).status == 400
            assert client.ask("PUT", "/app/public/records/public", self.public, prefer="committed").status == 204
        self._break(first.session(), f"GET /app/{words['path']} HTTP/7.3\r\n\r\n")
        self._break(first.session(), f"GET / HTTP/1.1\r\nhost: h\r\n{words['header']} x: {words['header']}\r\n\r\n")

    def _break(self, session: Session, text: str) -> None:
        with session:
            assert session.send_raw(text.encode()).status == 400


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


@pytest.fixture(scope="module")
def service(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that was written to, then joined by a late node, then lost its primary, and wrote again."""
    with Service(tmp_path_factory.mktemp("captured"), captured=True, election_ms=PATIENT_MS) as service:
        written.write(service)
        service.add()
        service.settle()
        dead = service.primary()
        dead.kill_enclave()
        assert dead.process.wait(ENDING_SECONDS_MAX) == 1
        with service.primary().session() as client:
            requests = [
                Request("PUT", f"/app/records/{written.words['key']}", value, {"prefer": "committed"}) for value in written.values.values()
            ]
            assert {answer.status for answer in client.ask_all(requests)} == {204}
        service.settle()
        yield service


def wires(service: Service, *names: str) -> list[tuple[str, bytearray]]:
    return [
        (f"{name} of {node.name}", captured)
        for node in service.nodes
        for name in names
        for captured in getattr(node, name).captured
        if captured
    ]


def files(service: Service, *patterns: str) -> list[tuple[str, bytes]]:
    paths = [path for pattern in patterns for path in service.folder.glob(pattern) if path.is_file()]
    return [(str(path.relative_to(service.folder)), path.read_bytes()) for path in paths]


def test_what_is_public_is_seen_on_every_disk_and_every_link(service: Service, written: Written) -> None:
    """So the searches below look at the right bytes, and find what is there."""
    public = {"the public value": written.public}
    for node in service.nodes:
        assert list(traces(public, files(service, f"{node.name}/ledger/data.mdb")))
        assert all(SIGNATURES.encode() in data for _, data in files(service, f"{node.name}/ledger/journal"))
        assert list(traces(public, files(service, f"{node.name}.link.out")))
        assert len(wires(service, "peer_wire")) >= len(service.nodes)
        assert b"is trusted" in node.log().encode() or b"starts a new service" in node.log().encode()


def test_private_data_is_on_no_disk_in_no_log_and_on_no_link(service: Service, written: Written) -> None:
    places = files(service, "**/*")
    assert {"node0/ledger/data.mdb", "node1/ledger/journal", "node1/node.log", "node2.link.in", "node3.link.out", "node0.nsm.out"} <= {
        name for name, _ in places
    }
    assert list(traces(written.secrets, places)) == []


def test_private_data_is_not_in_the_traffic_of_peers_and_clients(service: Service, written: Written) -> None:
    captured = wires(service, "rpc_wire", "peer_wire")
    assert sum(len(data) for _, data in captured) > 50_000
    assert list(traces(written.secrets | {"the public value": written.public}, captured)) == []
    for name, data in captured:
        assert data[:2] == b"\x16\x03", f"{name} does not begin with a TLS handshake"


class Watched(Cluster):
    """Keeps all that passes between each enclave and its host, in both directions."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[tuple[str, bytes]] = []

    def add(self, name: str, configuration: bytes, **options: Any) -> Host:
        host = super().add(name, configuration, **options)
        module = host.nsm.request

        def watched(request: bytes) -> bytes:
            answer = module(request)
            self.seen += [(f"request of {name} to its security module", request), (f"answer of {name}'s security module", answer)]
            return answer

        host.nsm.request = watched  # type: ignore[method-assign]  # a fake's own wire, tapped
        return host

    def _wake(self, host: Host) -> None:
        if host.inbox:
            self.seen.append((f"frame to {host.name}", boundary.encode_events(list(host.inbox))))
        super()._wake(host)

    def _obey(self, host: Host, ready: Ready) -> None:
        self.seen.append((f"frame of {host.name}", boundary.encode_ready(ready)))
        super()._obey(host, ready)

    def places(self) -> list[tuple[str, bytes]]:
        """Everything that any host ever held."""
        joined: dict[str, list[bytes]] = {}
        for place, data in self.seen:
            joined.setdefault(place, []).append(data)
        for host in self.hosts.values():
            joined[f"streams of {host.name}"] = host.sent
            joined[f"ledger of {host.name}"] = host.entries
            joined[f"notices of {host.name}"] = [text.encode() for text in host.notices.values()]
            joined[f"log of {host.name}"] = [text.encode() for _, text in host.logs]
        return [(place, b"".join(parts)) for place, parts in joined.items()]


def scalar(key: Any) -> bytes:
    number: int = key.private_numbers().private_value
    return number.to_bytes((key.key_size + 7) // 8, "big")


def test_no_key_leaves_an_enclave(tmp_path: Path) -> None:
    cluster = Watched(app)
    encryption_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = encryption_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    hosts = cluster.start(3, members=[{"certificate": cluster.member.pem, "data": None, "encryption_key": pem}])
    client = cluster.client(hosts[0], cluster.user)
    answer = client.ask("PUT", "/app/records/a", b"x", prefer="receipt", idempotency_key="k")
    assert cluster.client(hosts[1]).ask("PUT", "/app/records/b", b"y", prefer="committed").status == 204
    for path in (f"/app/receipt?transaction_id={answer.headers['x-ms-ccf-transaction-id']}", f"/node/attestations/self?nonce={'ab' * 32}"):
        assert client.ask("GET", path).status == 200
    member = cluster.member
    proposal = b'{"actions":[{"name":"trigger_ledger_rekey"}]}'
    rekey = requests.sign(member.key, member.certificate, requests.PROPOSAL, proposal, created_at=SIGNED_AT)
    assert send(cluster, hosts[0], rekey).status == 200
    hosts.append(cluster.join("n3"))
    cluster.until(lambda: bool(hosts[3].notices.get("open")))
    cluster.kill(hosts[0])
    cluster.until(lambda: any(host.alive and host.enclave._serving and host.enclave._serving.status.is_primary for host in hosts))
    assert cluster.client(hosts[1]).ask("PUT", "/app/records/c", b"z", prefer="committed").status == 204

    keys: dict[str, bytes] = {}
    public: dict[str, bytes] = {}
    for number, data in enumerate(hosts[1].entries, 1):
        for record in read_public(data).writes.get(tables.RECOVERY_SHARES, {}).values():
            (encrypted,) = tables.decode(record or b"")["encrypted_shares"].values()
            share = decrypted(encrypted, encryption_key)
            keys[f"recovery share of {number}"] = share[4:]
            keys[f"wrapping key of {number}"] = wrapping_key(combine([share]))
    for host in hosts:
        own, serving = host.enclave._keys, host.enclave._serving
        assert serving is not None
        keys[f"identity key of {host.name}"] = scalar(own.identity)
        keys[f"encryption key of {host.name}"] = bytes(own.encryption)
        keys["service key"] = scalar(serving.status.service.identity)
        assert keys["service key"] in serving.status.service.private_bytes(), (
            "the PKCS #8 form holds it as it is, so it is searched for, too"
        )
        for version, ledger_secret in serving.status.secrets():
            keys[f"ledger secret of {version}"] = ledger_secret
            keys[f"commit secret of {version}"] = hmac.digest(ledger_secret, b"Commit S", "sha256")
        public[f"public key of {host.name}"] = own.public[-96:]
        public["service's public key"] = serving.status.service.public[-96:]
    assert len(keys) == 2 * 4 + 1 + 2 * 2 + 2 * 2, "of nodes, the service, two ledger secrets, and two times shares"

    places = cluster.places()
    assert {name for name in public if list(traces({name: public[name]}, places))} == set(public), "what is public is found"
    assert list(traces(keys, places)) == []
