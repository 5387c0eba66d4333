"""A whole service on one machine, for development: folders, keys, node processes, and the end of all of them.

Laws: what can be refused is refused before anything is made. Every process is a child that dies with this one (PR_SET_PDEATHSIG), in a
session of its own, so that Ctrl-C reaches only us and we end the others in order. A node that dies later is told of, not restarted: a
node never comes back, and the service goes on while a majority lives. Attestation is simulated, and every word about it says so.
Not here: options and what is printed (`node.cli.dev`), one node (`node.lifecycle`).
"""

import datetime
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node import dev_public_name
from ledgerd.node.child import dies_with_us
from ledgerd.node.config import CURVES, VM_MEMORY_MB_DEFAULT, VM_QEMU_DEFAULT, Measurement, VmConfig
from ledgerd.node.dev_public_name import DevPublicName, Shown
from ledgerd.node.measure import check_application, measure

HOST: Final = "127.0.0.1"
MEMBERS: Final = ("member0",)
USERS: Final = ("user0", "user1")
CERTIFICATE_DAYS: Final = 365
START_SECONDS_MAX: Final = 30.0  # a few suffice; a machine that is busy with something else may need more
VM_START_SECONDS_MAX: Final = 300.0  # three on two cores take 30; each is a computer in software
VM_HEARTBEAT_MS: Final = 1_000  # a machine may stand still for a second while others have the processor
VM_ELECTION_TIMEOUT_MS: Final = 10_000
STOP_SECONDS_MAX: Final = 5.0
POLL_SECONDS: Final = 0.02
WATCH_SECONDS: Final = 0.1
LOG_LINES_SHOWN: Final = 30  # an exception has up to 20 frames
_NOTICE: Final = re.compile(r"(?!ledgerd: )[a-z_]+: ")  # what a node tells of itself when all is well


class DevelopmentError(LedgerdError):
    """The service did not come up; the message says which node, and why."""

    code = "DevelopmentError"


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


class Opened(NamedTuple):
    """A service that is open.

    Attributes:
        directory: Where everything lies.
        urls: Of the nodes, in their order.
        primary: Of the primary.
        isolation: What keeps the enclave processes apart from their hosts.
        seconds: From the start to now.
        public_name: How to see the public name at work; None without one.
    """

    directory: Path
    urls: tuple[str, ...]
    primary: str
    isolation: str
    seconds: float
    public_name: Shown | None = None


class _Stop:
    """Set by a signal; looked at wherever we wait."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class _Stopped(Exception):
    """Asked to stop before the service was open."""


class _Node:
    def __init__(self, name: str, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self.name = name
        self.directory = directory
        self.process = process
        self.told = False

    def read(self, name: str) -> str | None:
        """What the node has written into a file of this name, or None yet."""
        try:
            return (self.directory / name).read_text().strip() or None
        except OSError:
            return None

    def words(self) -> str:
        """What it said last, for people who wonder why it ended: warnings and errors of its log, then the line that says why."""
        logged = [line for line in self._lines("node.log") if " INFO " not in line]
        said = [line for line in self._lines("output.log") if not _NOTICE.match(line)]
        return "\n".join((logged + said)[-LOG_LINES_SHOWN:]) or "nothing"

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.directory / name).read_text(errors="replace").splitlines()
        except OSError:
            return []


def run_dev(options: DevOptions, opened: Callable[[Opened], None], tell: Callable[[str], None]) -> int:
    """Start a service, run the command or wait to be told to stop, and end everything.

    Args:
        options: What to run.
        opened: Called once, when the service is open.
        tell: Called with one line whenever people should know something.
    Returns: The command's status (128 + signal if one ended it); without a command 0 when told to stop, 1 when all nodes ended.
    Raises: ConfigurationError: Something is wrong with the options. DevelopmentError: The service did not come up.
    """
    begun = time.monotonic()
    here = Path.cwd()
    _check_ports(options)
    if options.public_name is not None:
        dev_public_name.check(options.public_name)
    options, measurement = _measure(options, here, tell)
    directory, temporary = _take_directory(options.directory)
    stop = _Stop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    nodes: list[_Node] = []
    others: list[_Node] = []
    try:
        pcrs = {"pcr0": measurement.pcr0, "pcr1": measurement.pcr1, "pcr2": measurement.pcr2}
        _make_common(directory, pcrs)
        name = None
        if options.public_name is not None:
            name = _begin_name(DevPublicName(directory, options.public_name, measurement), directory, others, stop)
        service = _start(options, directory, nodes, stop, begun, name)
        if name is not None:
            service = service._replace(public_name=_complete_name(name, options, nodes, stop))
        if options.bundle is not None:
            _install(service, options.bundle)
        opened(service)
        if options.command is not None:
            return _run_command(options.command, service, nodes, stop, tell)
        status = _watch(nodes, stop, tell)
        tell(f"stopping; {'nothing stays behind' if temporary else f'everything is kept in {directory}, but no node resumes'}")
        return status
    except DevelopmentError as error:
        temporary = False
        raise DevelopmentError(f"{error}\nEverything is kept in {directory}") from None
    except _Stopped:
        tell("stopping before the service was open")
        return 0 if options.command is None else 128 + signal.SIGINT
    finally:
        _end(nodes)
        _end(others)
        if temporary:
            shutil.rmtree(directory, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(service: Opened, bundle: dict[str, Any]) -> None:
    from ledgerd.node import dev_application  # noqa: PLC0415 (loads the client)

    refused = dev_application.install(service.primary, service.directory / "common", bundle)
    if refused is not None:
        raise DevelopmentError(f"the application was not installed: {refused}")


def _measure(options: DevOptions, here: Path, tell: Callable[[str], None]) -> tuple[DevOptions, Measurement]:
    """What the nodes will be measured as; and the options, with the image where there is one."""
    if options.launcher != "vm":
        check_application(options.app, here)
        line = measure(options.app, here)
        return options, Measurement(line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex())
    from ledgerd.node.image.lock import default_folder  # noqa: PLC0415 (only here)
    from ledgerd.node.vm import preflight  # noqa: PLC0415
    from ledgerd.node.vm.images import application  # noqa: PLC0415
    from ledgerd.node.vm.launcher import VmLauncher, refuse  # noqa: PLC0415

    def say(step: str) -> None:
        tell(f"{step} ...")

    refuse([preflight.program(VM_QEMU_DEFAULT), preflight.memory(VM_MEMORY_MB_DEFAULT, options.nodes)])
    if options.image is None:
        check_application(options.app, here)
    image = (options.image or application(options.app, here, default_folder(), say)).resolve()
    launcher = VmLauncher(VmConfig(image), default_folder(), say=say)
    launcher.check()
    return options._replace(image=image), launcher.measurement()


def _check_ports(options: DevOptions) -> None:
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


def _take_directory(wanted: Path | None) -> tuple[Path, bool]:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="ledgerd-dev-")), True
    try:
        if wanted.exists() and any(wanted.iterdir()):
            raise ConfigurationError(f"{wanted} was used before; a service does not resume from its disk yet: choose a new --dir")
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot use {wanted}: {error.strerror}") from None
    return wanted.resolve(), False


def _make_common(directory: Path, pcrs: dict[str, str]) -> None:
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


def _begin_name(name: DevPublicName, directory: Path, others: list[_Node], stop: _Stop) -> DevPublicName:
    """Start the simulated KMS, which nodes are told of."""
    process = name.begin((directory / "common" / "simulated_root_cert.pem").read_text())
    others.append(_Node("the simulated KMS", name.folder, process))
    _await(name.ready, others, stop, time.monotonic() + START_SECONDS_MAX, "an endpoint of KMS")
    return name


def _complete_name(name: DevPublicName, options: DevOptions, nodes: list[_Node], stop: _Stop) -> Shown:
    """Certify the first node's key, and write down how to start the node that serves with it."""
    deadline = time.monotonic() + START_SECONDS_MAX
    _await(lambda: "yes" if name.certify() else None, nodes, stop, deadline, "a request for the public name's certificate")
    address = nodes[0].read("rpc_address")
    assert address is not None, "the service is open"
    number = options.nodes  # of its port
    lines = _configuration(options, number, address).splitlines()
    return name.write_next("\n".join([*lines, *name.section(0), ""]))


def _configuration(options: DevOptions, number: int, target: str | None) -> str:
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


def _start(
    options: DevOptions, directory: Path, nodes: list[_Node], stop: _Stop, begun: float, name: DevPublicName | None = None
) -> Opened:
    seconds = VM_START_SECONDS_MAX if options.launcher == "vm" else START_SECONDS_MAX
    deadline = time.monotonic() + seconds
    nodes.append(_launch(options, directory, 0, None, name))
    from ledgerd.network.client import Budget, Client  # noqa: PLC0415 (loads while the first node does)
    from ledgerd.network.client.errors import ClientError  # noqa: PLC0415

    first = nodes[0]
    address = _await(lambda: first.read("rpc_address"), nodes, stop, deadline, "an address")
    certificate = _await(lambda: first.read("service_cert.pem"), nodes, stop, deadline, "a service certificate")
    service_cert = directory / "common" / "service_cert.pem"
    service_cert.write_text(certificate + "\n")
    nodes.extend(_launch(options, directory, number, address, name) for number in range(1, options.nodes))
    urls = []
    node_ids: dict[str, str] = {}
    primary = ""
    for node in nodes:
        url = "https://" + _await(lambda node=node: node.read("rpc_address"), nodes, stop, deadline, "an address")  # type: ignore[misc]
        urls.append(url)
        patience = 10.0 if options.launcher == "vm" else 1.0
        budget = Budget(seconds=patience, attempts=1, attempt_seconds=patience)
        with Client(url, service_certificate=service_cert, budget=budget) as client:

            def ready(client: Client = client, url: str = url) -> str | None:
                try:
                    client.get("/node/ready/app")
                    node_ids[client.get("/node/state").json()["node_id"]] = url
                    return str(client.get("/node/network").json().get("primary_id") or "") or None
                except ClientError:
                    return None

            primary = _await(ready, nodes, stop, deadline, "an open service")
    isolation = first.read("isolation") or "unknown"
    return Opened(directory, tuple(urls), node_ids.get(primary, urls[0]), isolation, time.monotonic() - begun)


def _launch(options: DevOptions, directory: Path, number: int, target: str | None, public_name: DevPublicName | None) -> _Node:
    name = f"node{number}"
    folder = directory / name
    folder.mkdir(mode=0o700)
    configuration = folder / "node.toml"
    section = [] if public_name is None else [*public_name.section(number), ""]
    configuration.write_text("\n".join([*_configuration(options, number, target).splitlines(), *section, ""]))
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-P", "-m", "ledgerd.node.cli.main", "node", "join" if target else "start", "--config", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dev_public_name.environment_of(public_name),
            start_new_session=True,
            preexec_fn=dies_with_us(signal.SIGTERM),  # noqa: PLW1509 (this process has one thread)
        )
    return _Node(name, folder, process)


def _await(found: Callable[[], str | None], nodes: list[_Node], stop: _Stop, deadline: float, what: str) -> str:
    """Wait for something of a service that is being born: nobody may die before it is there."""
    while True:
        value = found()
        if value:
            return value
        if stop.asked:
            raise _Stopped
        for node in nodes:
            status = node.process.poll()
            if status is not None:
                raise DevelopmentError(f"{node.name} {_how(status)} before the service was open; it said:\n{node.words()}")
        if time.monotonic() > deadline:
            words = "\n".join(f"{node.name}: {node.words()}" for node in nodes)
            raise DevelopmentError(f"there was no {what.partition(' ')[2]} in time; the nodes said:\n{words}")
        time.sleep(POLL_SECONDS)


def _watch(nodes: list[_Node], stop: _Stop, tell: Callable[[str], None]) -> int:
    while not stop.asked:
        _tell_of_the_dead(nodes, tell)
        if all(node.process.poll() is not None for node in nodes):
            tell("all nodes have ended")
            return 1
        time.sleep(WATCH_SECONDS)
    return 0


def _run_command(command: str, service: Opened, nodes: list[_Node], stop: _Stop, tell: Callable[[str], None]) -> int:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",  # `ledgerd` itself is found
        "LEDGERD_URL": service.primary,
        "LEDGERD_URLS": ",".join(service.urls),
        "LEDGERD_DIR": str(service.directory),
    }
    # Without a terminal it leads a group of its own, so that what it leaves in the background ends with it.
    own_group = not sys.stdin.isatty()
    process = subprocess.Popen(  # noqa: S603 (the caller's own command, read by the shell as if typed)
        ["/bin/sh", "-c", command],
        env=environment,
        process_group=0 if own_group else None,
        preexec_fn=dies_with_us(signal.SIGTERM),  # noqa: PLW1509
    )
    try:
        while process.poll() is None and not stop.asked:
            _tell_of_the_dead(nodes, tell)
            time.sleep(POLL_SECONDS)
        if process.poll() is None:
            _signal(process, signal.SIGTERM, group=own_group)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL, group=own_group)
    finally:
        if own_group:
            _signal(process, signal.SIGKILL, group=True)
        status = process.wait()
    return status if status >= 0 else 128 - status


def _tell_of_the_dead(nodes: list[_Node], tell: Callable[[str], None]) -> None:
    for node in nodes:
        status = node.process.poll()
        if status is not None and not node.told:
            node.told = True
            members = [other for other in nodes if other.read("retired") is None]
            if node not in members:
                tell(f"{node.name}, which was retired, {_how(status)}")
                continue
            living = sum(other.process.poll() is None for other in members)
            goes_on = "the service goes on" if 2 * living > len(members) else "without a majority nothing is committed any more"
            tell(f"{node.name} {_how(status)}; {living} of {len(members)} nodes live: {goes_on}")


def _end(nodes: list[_Node]) -> None:
    """End all nodes: asked first, killed with all of their session if they do not."""
    deadline = time.monotonic() + STOP_SECONDS_MAX
    for node in nodes:
        _signal(node.process, signal.SIGTERM, group=False)
    for node in nodes:
        try:
            node.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(node.process, signal.SIGKILL, group=True)
            node.process.wait()


def _signal(process: "subprocess.Popen[Any]", number: int, *, group: bool) -> None:
    try:
        if group:
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)
    except ProcessLookupError:
        pass


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by signal {signal.Signals(-status).name}"
    return f"ended with status {status}"
