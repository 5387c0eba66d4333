"""A node's configuration: read from TOML, checked as a whole, frozen; and the part of it that the enclave is given, as JSON.

Law: all problems are told at once, each with its key and what to write instead.
Not here: taking keys out of tables, reading the files that they name (`node.sections`); what the enclave makes of its document
(`enclave.configuration`).
"""

import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledgerd.enclave.boundary import LINK_PORT_DEFAULT
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1_PEM
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.ledger.subject import parse_subject
from ledgerd.node import public_name
from ledgerd.node.constitution import default_constitution
from ledgerd.node.public_name import PublicNameConfig
from ledgerd.node.sections import Address, Section

CLIENTS_MAX_DEFAULT: Final = 1_000  # CCF's default of max_open_sessions_soft
BODY_BYTES_DEFAULT: Final = 1 << 20  # CCF's default of max_body_size
JWT_REFRESH_SECONDS_DEFAULT: Final = 1800  # CCF's default of jwt.key_refresh_interval_s
NITRO_MEMORY_MB_DEFAULT: Final = 2048  # a small image four times, and about a million keys
NITRO_CPUS_DEFAULT: Final = 2
VM_QEMU_DEFAULT: Final = "qemu-system-x86_64"
VM_MEMORY_MB_DEFAULT: Final = 512  # the image's files take 50, the enclave's start 100; several machines share one machine
_SERVER: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[1-9][0-9]{0,4})?")
_PCR: Final = re.compile(r"[0-9a-fA-F]{96}")
_ENCLAVE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
CID_MAX: Final = (1 << 32) - 2  # the last number is the wildcard, for ports too
LAUNCHERS: Final = ("process", "vm", "nitro")
CURVES: Final = ("secp256r1", "secp384r1")  # the first is the default: docs/adr/0009
_NAMES: Final = {"process": "process", "vm": "virtual machine"}
_IN_IMAGE: Final = "the application is in the image"


@dataclass(frozen=True, slots=True)
class Party:
    """A member or a user of a new service; PEM texts."""

    certificate: str
    encryption_key: str | None = None
    data: Any = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """An enclave's PCRs 0, 1 and 2, each 96 hexadecimal characters."""

    pcr0: str
    pcr1: str
    pcr2: str


@dataclass(frozen=True, slots=True)
class StartConfig:
    """How a new service begins.

    Attributes:
        measurements: Enclaves that may join; None for those measured like this node's own.
        constitution: Its text; None for the one that comes with the program.
        open_at_nodes: Open by itself with so many trusted nodes; None for a vote.
        curve: Of the service's key and of every node's, one of `CURVES`.
    """

    members: tuple[Party, ...]
    users: tuple[Party, ...] = ()
    measurements: tuple[Measurement, ...] | None = None
    constitution: str | None = None
    admission: str = "vote"
    open_at_nodes: int | None = None
    application_policy: str = "user_cert"
    service_subject: str = "CN=ledgerd Service"
    curve: str = CURVES[0]


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """Which service to join: where one of its nodes is, and the certificate that names the service."""

    target: Address
    service_certificate: str
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class NitroConfig:
    """What `nitro-cli` is to start.

    Attributes:
        image: The EIF file; the application is in it.
        memory_mb, cpus: For the enclave; memory at least four times the image, CPUs in full cores.
        cid, name: Its vsock address and name; None: a free one, one of the node's own.
        link_port: The vsock port that the image connects to.
        cli: The program.
    """

    image: Path
    memory_mb: int = NITRO_MEMORY_MB_DEFAULT
    cpus: int = NITRO_CPUS_DEFAULT
    cid: int | None = None
    name: str | None = None
    link_port: int = LINK_PORT_DEFAULT
    cli: str = "nitro-cli"


@dataclass(frozen=True, slots=True)
class VmConfig:
    """What QEMU is to start.

    Attributes:
        image: The EIF file; the application is in it. Its platform is replaced by one that has a simulated security module.
        memory_mb: For the machine.
        link_port: The vsock port that the image connects to.
        qemu: The program.
    """

    image: Path
    memory_mb: int = VM_MEMORY_MB_DEFAULT
    link_port: int = LINK_PORT_DEFAULT
    qemu: str = VM_QEMU_DEFAULT


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """All that a node's host must know. Exactly one of `start` and `join` is there.

    Attributes:
        directory: Where the node keeps its ledger, log and process ids; must not have been used.
        app, app_path: The application's module, and a folder to look for it in if it is not installed; not with an image.
        rpc, peer: Where to listen, for clients and for other nodes.
        rpc_published, peer_published: How others reach that; port 0 or None stands for what was bound.
        names: Host names and addresses for the node's certificate.
        roots: PEM certificates of attestation roots that the service accepts.
        simulator: Directory with the simulated root (`root_cert.pem`, `root_privk.pem`), made if empty; for launchers without an NSM.
        launcher, nitro, vm: How to start the enclave; of the others, the one that the first names is there.
        jwt_refresh_seconds: From one refresh of token issuers' keys to the next.
        jwt_hosts: Servers of issuers, `host` or `host:port`, to which the enclave may have this host connect.
        debug: Start the enclave in debug mode, or simulate that: it must be refused, but its console can be read.
    """

    directory: Path
    app: str
    rpc: Address
    peer: Address
    roots: tuple[str, ...]
    start: StartConfig | None = None
    join: JoinConfig | None = None
    public_name: PublicNameConfig | None = None
    app_path: Path | None = None
    rpc_published: Address | None = None
    peer_published: Address | None = None
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    data: Any = None
    launcher: str = "process"
    nitro: NitroConfig | None = None
    vm: VmConfig | None = None
    simulator: Path | None = None
    debug: bool = False
    memory_bytes: int = 8 << 30
    ledger_bytes_max: int = 1 << 42
    clients_max: int = CLIENTS_MAX_DEFAULT
    body_bytes_max: int = BODY_BYTES_DEFAULT
    heartbeat_ms: int = 100
    election_timeout_ms: int = 1_000
    jwt_refresh_seconds: int = JWT_REFRESH_SECONDS_DEFAULT
    jwt_hosts: tuple[str, ...] = ()


def load(path: Path, *, launcher: str | None = None, image: Path | None = None) -> NodeConfig:
    """Read a TOML file.

    Args:
        path: The file.
        launcher: In place of its `node.launcher`.
        image: In place of its `nitro.image` or `vm.image`, relative to the working directory.
    Raises: ConfigurationError: It cannot be read, or is wrong; one line for each problem.
    """
    try:
        text = path.read_bytes().decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # of TOML, of its encoding, or of a number that Python does not read
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path} is not TOML of sane depth") from None
    _replace(document, "node", "launcher", launcher)
    if image is not None:
        chosen = document["node"].get("launcher") if isinstance(document.get("node"), dict) else None
        if chosen not in ("vm", "nitro"):
            raise ConfigurationError("--image is for virtual machines and enclaves: add --launcher vm, or --launcher nitro")
        _replace(document, chosen, "image", str(image.absolute()))
    return parse(document, path.parent)


def _replace(document: dict[str, Any], section: str, key: str, value: str | None) -> None:
    if value is not None and isinstance(document.setdefault(section, {}), dict):
        document[section][key] = value


def parse(document: dict[str, Any], folder: Path) -> NodeConfig:
    """Check a configuration document; file names in it are relative to `folder`.

    Raises: ConfigurationError: As `load`.
    """
    root = Section("", document, folder, [])
    node = root.section("node")
    rpc = root.section("rpc")
    peer = root.section("peer")
    limits = root.section("limits")
    consensus = root.section("consensus")
    attestation = root.section("attestation")
    jwt = root.section("jwt")
    modes = [name for name in ("start", "join") if name in document]
    if len(modes) != 1:
        root.problem("start", "needed, or [join] in its place: a node either starts a service or joins one", key_is_section=True)
    simulator = attestation.path("simulator")
    launcher = node.choice("launcher", "process", LAUNCHERS)
    app = node.text("app", required=launcher == "process")
    app_path = node.path("app_path")
    roots = attestation.pems("roots")
    nitro = _nitro(root.section("nitro")) if launcher == "nitro" or root.has("nitro") else None
    vm = _vm(root.section("vm")) if launcher == "vm" or root.has("vm") else None
    if launcher in ("nitro", "vm"):
        for key, text in (("app", _IN_IMAGE), ("app_path", _IN_IMAGE), ("memory_mb", f"an enclave's memory is {launcher}.memory_mb")):
            if node.has(key):
                node.problem(key, f"{text}: leave this out")
    if launcher == "nitro":
        if simulator is not None:
            attestation.problem("simulator", "an enclave has a security module of its own: leave this out")
        roots = roots or (AWS_ROOT_G1_PEM,)
    elif simulator is None:
        attestation.problem("simulator", f"missing; a {_NAMES[launcher]} has no security module: give a folder for a simulated root")
    heartbeat = consensus.number("heartbeat_ms", 100, 1, 60_000)
    election = consensus.number("election_timeout_ms", 1_000, 10, 600_000)
    if election < 2 * heartbeat:
        consensus.problem(
            "election_timeout_ms", f"{election} is less than twice heartbeat_ms ({heartbeat}): healthy primaries would be deposed"
        )
    hosts = jwt.texts("hosts", ())
    for name in hosts:
        if not _SERVER.fullmatch(name):
            jwt.problem("hosts", f'{name[:100]!r} is no server; give "host" or "host:port", without https://')
    config = NodeConfig(
        directory=node.path("directory", required=True) or folder,
        app=app,
        app_path=app_path,
        names=node.texts("names", ("localhost", "127.0.0.1")),
        data=node.anything("data"),
        launcher=launcher,
        nitro=nitro,
        vm=vm,
        memory_bytes=node.number("memory_mb", 8192, 128, 1 << 20) << 20,
        ledger_bytes_max=node.number("ledger_mb_max", 1 << 22, 1, 1 << 22) << 20,
        rpc=rpc.address("listen", required=True),
        rpc_published=rpc.address("published") if rpc.has("published") else None,
        peer=peer.address("listen", required=True),
        peer_published=peer.address("published") if peer.has("published") else None,
        clients_max=limits.number("clients", CLIENTS_MAX_DEFAULT, 1, 1_000_000),
        body_bytes_max=limits.number("body_bytes", BODY_BYTES_DEFAULT, 1024, 64 << 20),
        heartbeat_ms=heartbeat,
        election_timeout_ms=election,
        jwt_refresh_seconds=jwt.number("key_refresh_interval_s", JWT_REFRESH_SECONDS_DEFAULT, 1, 604_800),
        jwt_hosts=hosts,
        roots=roots,
        simulator=simulator,
        debug=attestation.truth("debug"),
        start=_start(root.section("start")) if "start" in modes else None,
        join=_join(root.section("join")) if "join" in modes else None,
        public_name=_public_name(root.section("public_name")) if root.has("public_name") else None,
    )
    for section in (node, rpc, peer, limits, consensus, attestation, jwt, root):
        section.refuse_unknown()
    if root.problems:
        raise ConfigurationError("\n".join(root.problems))
    return config


def _nitro(section: Section) -> NitroConfig:
    config = NitroConfig(
        image=section.path("image", required=True) or Path(),
        memory_mb=section.number("memory_mb", NITRO_MEMORY_MB_DEFAULT, 64, 1 << 24),
        cpus=section.number("cpus", NITRO_CPUS_DEFAULT, 1, 1024),
        cid=section.number("cid", 16, 4, CID_MAX) if section.has("cid") else None,
        name=section.text("name") or None,
        link_port=section.number("link_port", LINK_PORT_DEFAULT, 1, CID_MAX),
        cli=section.text("cli", "nitro-cli"),
    )
    if config.name is not None and not _ENCLAVE_NAME.fullmatch(config.name):
        section.problem("name", "may have letters, digits, `-`, `_` and `.`, at most 128")
    section.refuse_unknown()
    return config


def _vm(section: Section) -> VmConfig:
    config = VmConfig(
        image=section.path("image", required=True) or Path(),
        memory_mb=section.number("memory_mb", VM_MEMORY_MB_DEFAULT, 256, 1 << 20),
        link_port=section.number("link_port", LINK_PORT_DEFAULT, 1, CID_MAX),
        qemu=section.text("qemu", VM_QEMU_DEFAULT),
    )
    section.refuse_unknown()
    return config


def _start(section: Section) -> StartConfig:
    config = StartConfig(
        members=section.tables("members", _party, required=True),
        users=section.tables("users", _party),
        measurements=section.tables("measurements", _measurement) if section.has("measurements") else None,
        constitution=section.joined("constitution"),
        admission=section.choice("admission", "vote", ("vote", "automatic")),
        open_at_nodes=section.number("open_at_nodes", 1, 1, 1_000) if section.has("open_at_nodes") else None,
        application_policy=section.choice("application_policy", "user_cert", ("user_cert", "open")),
        service_subject=_subject(section),
        curve=section.choice("curve", CURVES[0], CURVES),
    )
    section.refuse_unknown()
    return config


def _subject(section: Section) -> str:
    subject = section.text("service_subject", default="CN=ledgerd Service")
    try:
        parse_subject(subject)
    except ConfigurationError as error:
        section.problem("service_subject", str(error))
    return subject


def _join(section: Section) -> JoinConfig:
    config = JoinConfig(
        target=section.address("target", required=True),
        service_certificate=section.pem("service_certificate", required=True),
        measurements=section.tables("measurements", _measurement),
    )
    section.refuse_unknown()
    return config


def _public_name(section: Section) -> PublicNameConfig:
    endpoint = section.address("endpoint") if section.has("endpoint") else None
    config = PublicNameConfig(
        name=section.text("name", required=True),
        key=section.text("key", required=True),
        folder=section.path("folder", required=True) or Path(),
        roots=section.pems("roots"),
        endpoint=None if endpoint is None else (endpoint.host, endpoint.port),
    )
    section.refuse_unknown()
    return config


def _party(section: Section) -> Party:
    return Party(
        section.pem("certificate", required=True),
        section.pem("encryption_key") if section.has("encryption_key") else None,
        section.anything("data"),
    )


def _measurement(section: Section) -> Measurement:
    values = [section.text(name, required=True) for name in ("pcr0", "pcr1", "pcr2")]
    for name, value in zip(("pcr0", "pcr1", "pcr2"), values, strict=True):
        if value and not _PCR.fullmatch(value):
            section.problem(name, "must be 96 hexadecimal characters (SHA-384)")
    return Measurement(values[0].lower(), values[1].lower(), values[2].lower())


def enclave_document(
    config: NodeConfig,
    *,
    rpc: Address,
    peer: Address,
    isolation: Sequence[str],
    roots: Sequence[str],
    own_measurement: Measurement | None,
) -> bytes:
    """The JSON document for `boundary.Configured`.

    Args:
        rpc, peer: What was bound; the published addresses are completed from it.
        isolation: Words of the launcher.
        roots: PEM certificates: the configured ones, and the simulator's where there is one.
        own_measurement: Of the code that was launched; what `start.measurements` of None stands for.
    """
    document: dict[str, Any] = {
        "mode": "start" if config.start else "join",
        "node": {
            "rpc": _published(config.rpc_published, rpc),
            "peer": _published(config.peer_published, peer),
            "names": list(config.names),
            "isolation": list(isolation),
            "data": config.data,
        },
        "limits": {"sessions": config.clients_max, "body_bytes": config.body_bytes_max},
        "consensus": {"heartbeat_ms": config.heartbeat_ms, "election_timeout_ms": config.election_timeout_ms},
        "consortium": {"roots": list(roots), "simulated": config.simulator is not None},
        "jwt": {"key_refresh_interval_s": config.jwt_refresh_seconds, "hosts": list(config.jwt_hosts)},
    }
    if config.start is not None:
        start = config.start
        measurements = start.measurements
        if measurements is None:
            measurements = () if own_measurement is None else (own_measurement,)
        document["start"] = {
            "members": [_party_document(party) for party in start.members],
            "users": [_party_document(party) for party in start.users],
            "measurements": [_measurement_document(measurement) for measurement in measurements],
            "constitution": default_constitution(start.admission) if start.constitution is None else start.constitution,
            "admission": start.admission,
            "open_at_nodes": start.open_at_nodes,
            "application_policy": start.application_policy,
            "service_subject": start.service_subject,
            "curve": start.curve,
        }
    if config.join is not None:
        document["join"] = {
            "target": {"host": config.join.target.host, "port": config.join.target.port},
            "service_certificate": config.join.service_certificate,
            "measurements": [_measurement_document(measurement) for measurement in config.join.measurements],
        }
    if config.public_name is not None:
        document["public_name"] = public_name.document(config.public_name, os.environ)
    return json.dumps(document).encode()


def _published(published: Address | None, bound: Address) -> dict[str, Any]:
    if published is None:
        return {"host": bound.host, "port": bound.port}
    return {"host": published.host, "port": published.port or bound.port}


def _party_document(party: Party) -> dict[str, Any]:
    document: dict[str, Any] = {"certificate": party.certificate, "data": party.data}
    if party.encryption_key is not None:
        document["encryption_key"] = party.encryption_key
    return document


def _measurement_document(measurement: Measurement) -> dict[str, str]:
    return {"pcr0": measurement.pcr0, "pcr1": measurement.pcr1, "pcr2": measurement.pcr2}
