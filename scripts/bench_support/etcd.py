"""Three etcd nodes on this machine: TLS for clients, mutual TLS between peers, every commit synced to disk.

Nothing is tuned away from etcd's defaults but the size that its database may have. P-256 certificates, which cost TLS least.
"""

import base64
import datetime
import ipaddress
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench_support.machine import free_ports
from bench_support.processes import BenchError, package_of, run, stop
from bench_support.wire import Wire

NODES = 3
START_SECONDS_MAX = 30.0


def write_certificates(folder: Path) -> None:
    """Write `ca.pem`, `node.pem` and `node.key`: a local authority and one P-256 certificate for all nodes, for loopback and one day."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: str) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca_key, node_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = (
        certificate("benchmark authority", ca_key, "benchmark authority")
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    node = (
        certificate("benchmark node", node_key, "benchmark authority")
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "node.pem").write_bytes(node.public_bytes(pem))
    key = node_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "node.key").write_bytes(key)


class Etcd:
    """A running cluster; a context manager that leaves no process behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[subprocess.Popen[bytes]] = []
        self._urls: list[str] = []
        self.url = ""
        """The leader's: loading a follower would add a hop to every write."""

    def __enter__(self) -> "Etcd":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every node; safe to call twice."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            stop(child)

    @property
    def processes(self) -> dict[str, int]:
        """Pid of each process; the one that the load talks to is named so."""
        names = ["leader" if url == self.url else f"follower {number}" for number, url in enumerate(self._urls)]
        return dict(zip(names, (child.pid for child in self._children), strict=True))

    @property
    def ca(self) -> Path:
        """The authority's certificate, PEM."""
        return self._folder / "ca.pem"

    def call(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        """One request through the leader's JSON gateway. Raises: OSError."""
        return self._call(self.url, path, body)

    def _call(self, url: str, path: str, body: dict[str, object]) -> dict[str, Any]:
        with Wire(url, self.ca) as wire:
            answer = wire.ask("POST", path, json.dumps(body).encode())
        if answer.status != 200:
            raise ConnectionError(f"etcd answered {path} with {answer.status}: {answer.body.decode(errors='replace')[:200]}")
        value: dict[str, Any] = json.loads(answer.body)
        return value

    def version_of(self, key: bytes) -> int:
        """How many times a key was put, as the cluster's linearizable read has it: what proves a load's count of successes."""
        answer = self.call("/v3/kv/range", {"key": base64.b64encode(key).decode()})
        return int(answer["kvs"][0]["version"]) if "kvs" in answer else 0

    def revision(self) -> int:
        """How many writes the whole store has seen, by a linearizable read."""
        return int(self.call("/v3/kv/range", {"key": base64.b64encode(b"none").decode()})["header"]["revision"])

    def _start(self) -> None:
        write_certificates(self._folder)
        ports = free_ports(2 * NODES)
        self._urls = [f"https://127.0.0.1:{port}" for port in ports[:NODES]]
        peers = [f"https://127.0.0.1:{port}" for port in ports[NODES:]]
        everybody = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        tls = [f"--{name}={self._folder / file}" for name, file in _TLS_FILES]
        for number, (url, peer) in enumerate(zip(self._urls, peers, strict=True)):
            command = ["etcd", f"--name=n{number}", f"--data-dir={self._folder / f'n{number}'}", "--log-level=warn", "--logger=zap"]
            command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}"]
            command += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster={everybody}", "--quota-backend-bytes=8589934592"]
            command += [*tls, "--peer-client-cert-auth"]
            with (self._folder / f"n{number}.log").open("wb") as log:
                try:
                    self._children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
                except FileNotFoundError:
                    raise BenchError(f"etcd is not installed; on Debian and Ubuntu: apt-get install {package_of('etcd')}") from None
        self._wait_for_leader()

    def _wait_for_leader(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            for number, child in enumerate(self._children):
                if child.poll() is not None:
                    log = (self._folder / f"n{number}.log").read_text(errors="replace")
                    raise BenchError(f"etcd node {number} ended with status {child.returncode}: {log[-800:]}")
            leader = self._find_leader()
            if leader is not None:
                self.url = leader
                return
            time.sleep(0.1)
        raise BenchError(f"etcd found no leader within {START_SECONDS_MAX:.0f} s; see the logs in {self._folder}")

    def _find_leader(self) -> str | None:
        for url in self._urls:
            try:
                status = self._call(url, "/v3/maintenance/status", {})
            except OSError:
                return None
            if status.get("leader") == status["header"]["member_id"]:
                return url
        return None


_TLS_FILES = (
    ("cert-file", "node.pem"),
    ("key-file", "node.key"),  # and no trusted-ca-file: with it etcd 3.4 demands a certificate of every client
    ("peer-cert-file", "node.pem"),
    ("peer-key-file", "node.key"),
    ("peer-trusted-ca-file", "ca.pem"),
)


def version() -> str:
    """As `etcd --version` prints it."""
    return run(["etcd", "--version"], seconds=10).splitlines()[0].rpartition(" ")[2]
