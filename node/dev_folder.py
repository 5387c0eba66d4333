"""What `ledgerd dev` makes before it starts anything: a folder, keys of people, and the configuration of each node.

Laws: what can be refused is refused before anything is made. Files have the names that tools written for CCF's sandbox look for.
Not here: processes (`node.dev_processes`), and what comes when (`node.dev`).
"""

import datetime
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.config import CURVES

HOST: Final = "127.0.0.1"
MEMBERS: Final = ("member0",)
USERS: Final = ("user0", "user1")
CERTIFICATE_DAYS: Final = 365
VM_HEARTBEAT_MS: Final = 1_000  # a machine may stand still for a second while others have the processor
VM_ELECTION_TIMEOUT_MS: Final = 10_000


class DevOptions(NamedTuple):
    """What to run.

    Attributes:
        nodes: How many.
        directory: New or empty; None for a temporary one that is removed at the end.
        port: Of the first node, the others follow; 0 lets the system choose.
        app: Module of the application; looked for in the working directory, too.
        anybody: The application's endpoints are open to callers without a certificate.
        command: Run by the shell when the service is open; None runs until told to stop.
        launcher: `process` or `vm`.
        image: For virtual machines: an EIF file in place of one that is made of the application; `app` is then what it holds.
        curve: Of the service's key and its nodes', one of `config.CURVES`.
        public_name: DNS name for which nodes make and seal TLS keys, by a simulated KMS; None for none.
        bundle: An application in JavaScript, installed when the service is open; None for none.
    """

    nodes: int
    directory: Path | None
    port: int
    app: str
    anybody: bool
    command: str | None
    launcher: str = "process"
    image: Path | None = None
    curve: str = CURVES[0]
    public_name: str | None = None
    bundle: dict[str, Any] | None = None


def check_ports(options: DevOptions) -> None:
    """Raises: ConfigurationError: One of the ports is not to be had; it says which, and why."""
    if options.port == 0:
        return
    if options.port + options.nodes - 1 > 65535:
        raise ConfigurationError(f"ports {options.port} to {options.port + options.nodes - 1} do not exist; choose a lower --port")
    for port in range(options.port, options.port + options.nodes):
        try:
            socket.create_server((HOST, port)).close()
        except OSError as error:
            reason = "needs root" if isinstance(error, PermissionError) else "is in use"
            raise ConfigurationError(f"port {port} {reason}; choose others with --port, or --port 0 for free ones") from None


def take_directory(wanted: Path | None) -> tuple[Path, bool]:
    """The service's folder, new or empty, and whether it is a temporary one. Raises: ConfigurationError: It was used before."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="ledgerd-dev-")), True
    try:
        if wanted.exists() and any(wanted.iterdir()):
            raise ConfigurationError(f"{wanted} was used before; a service does not resume from its disk yet: choose a new --dir")
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot use {wanted}: {error.strerror}") from None
    return wanted.resolve(), False


def make_common(directory: Path, pcrs: dict[str, str]) -> None:
    """Keys and certificates of people, under the names that tools written for CCF's sandbox look for."""
    from ledgerd.node.lifecycle import simulated_root  # noqa: PLC0415 (loads the whole node)

    common = directory / "common"
    common.mkdir(mode=0o700)
    for name in (*MEMBERS, *USERS):
        key = ec.generate_private_key(ec.SECP384R1())
        certificate = _certify(name, key)
        (common / f"{name}_cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        _write_secret(common / f"{name}_privk.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    root = simulated_root(directory / "simulator")
    (common / "simulated_root_cert.pem").write_text(root.certificate_pem)
    (common / "measurements.json").write_text(json.dumps(pcrs, indent=2) + "\n")


def _certify(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )


def _write_secret(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def configuration_of(options: DevOptions, number: int, target: str | None) -> str:
    """The TOML file of one node, as an operator would write it. File names are relative to it."""
    port = options.port + number if options.port else 0
    if options.launcher == "vm":
        program = [
            'launcher = "vm"',
            "",
            "[vm]",
            f"image = {_quote(str(options.image))}",
            "",
            "[consensus]",
            f"heartbeat_ms = {VM_HEARTBEAT_MS}",
            f"election_timeout_ms = {VM_ELECTION_TIMEOUT_MS}",
        ]
    else:
        program = [f"app = {_quote(options.app)}", f"app_path = {_quote(str(Path.cwd()))}  # looked at if it is not installed"]
    lines = [
        "# Made by `ledgerd dev`.",
        "[node]",
        'directory = "."',
        *program,
        "",
        "[rpc]",
        f'listen = "{HOST}:{port}"',
        "",
        "[peer]",
        f'listen = "{HOST}:0"',
        "",
        "[attestation]",
        'simulator = "../simulator"  # SIMULATED: no enclave, documents by a root of this folder\'s own',
        "",
    ]
    if target is not None:
        return "\n".join([*lines, "[join]", f"target = {_quote(target)}", 'service_certificate = "../common/service_cert.pem"', ""])
    lines += [
        "[start]",
        'admission = "automatic"',
        f"open_at_nodes = {options.nodes}",
        f'application_policy = "{"open" if options.anybody else "user_cert"}"',
        f'curve = "{options.curve}"',
    ]
    for kind, names in (("members", MEMBERS), ("users", USERS)):
        for name in names:
            lines += ["", f"[[start.{kind}]]", f'certificate = "../common/{name}_cert.pem"', f'data = {{ name = "{name}" }}']
    return "\n".join([*lines, ""])


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
