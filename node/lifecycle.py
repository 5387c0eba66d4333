"""One node from its configuration to its exit status: directory, enclave, simulator, ledger, addresses, loop, and the end of all of them.

Law: what can be refused is refused before anything is made, in one line, with exit status 2. The enclave is launched before this
process starts a thread (`node.launch` says why). Whatever was started here ends here, on every way out.
The directory afterwards: `ledger/` (LMDB and its journal), `node.log`, `rpc_address`, `node_address`, what the enclave announced
(`node_id`, `service_cert.pem`, ...); and while the node runs `host.pid` and `enclave.pid`.
"""

import contextlib
import logging
import logging.handlers
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ledgerd.enclave.boundary import CLIENT, OUTBOUND, PEER
from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.network.streams import Streams
from ledgerd.node import public_name
from ledgerd.node.checks import failures
from ledgerd.node.config import Measurement, NodeConfig, enclave_document
from ledgerd.node.host import CLIENTS_OVER, EXIT_FAILED, PEERS_MAX, EnclaveLostError, Host, kinds
from ledgerd.node.image import preflight as images
from ledgerd.node.image.lock import default_folder
from ledgerd.node.launch import Launcher, ProcessLauncher
from ledgerd.node.ledger_files import holds_ledger
from ledgerd.node.measure import check_application, measure
from ledgerd.node.nitro.launcher import NitroLauncher
from ledgerd.node.printing import printable
from ledgerd.node.sections import Address
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import SimulatedRoot, make_root
from ledgerd.node.simulator.server import serve
from ledgerd.node.storage import Storage
from ledgerd.node.vm import preflight as vms
from ledgerd.node.vm.launcher import VmLauncher

EXIT_MISUSE: Final = 2
LEDGER: Final = "ledger"
LOG: Final = "node.log"
HOST_PID: Final = "host.pid"
ENCLAVE_PID: Final = "enclave.pid"
RPC_ADDRESS: Final = "rpc_address"
NODE_ADDRESS: Final = "node_address"
LOG_BYTES_MAX: Final = 16 << 20
STOP_SECONDS: Final = 2.0
_FILES_BESIDE_STREAMS: Final = 64
# Under these names the enclave's notices are kept in the directory; others are only logged.
NOTICE_FILES: Final = {
    "node_id": "node_id",
    "service_certificate": "service_cert.pem",
    "state": "state",
    "open": "open",
    "refused": "refused",
    "retired": "retired",
    "isolation": "isolation",
}

log = logging.getLogger("ledgerd.node")


def run_node(
    config: NodeConfig,
    *,
    launcher: Launcher | None = None,
    notice: Callable[[str, str], None] = lambda name, text: None,
    catch_signals: bool = True,
) -> int:
    """Run a node until it ends.

    Args:
        config: Its configuration.
        launcher: How to start the enclave; by the configuration unless told.
        notice: Told what becomes known, name and text: `isolation`, `rpc_address`, `node_address`, the enclave's own notices, and each
            `warning` that is logged, such as why joining takes so long.
        catch_signals: Stop on SIGTERM and SIGINT; only possible in the main thread.
    Returns: 0 stopped as asked; 1 it failed; 2 it was refused; or what the enclave chose. The last line of standard error, and of the
        log where there is one, says why.
    """
    try:
        with contextlib.ExitStack() as stack:
            status, why = _run(config, launcher, notice, catch_signals, stack)
    except ConfigurationError as error:
        status, why = EXIT_MISUSE, str(error)
    except LedgerdError as error:
        status, why = EXIT_FAILED, str(error)
    # After everything has ended, and said what it had to say while it did.
    print(f"ledgerd: {printable(why)}", file=sys.stderr)
    return status


def _run(
    config: NodeConfig,
    launcher: Launcher | None,
    notice: Callable[[str, str], None],
    catch_signals: bool,
    stack: contextlib.ExitStack,
) -> tuple[int, str]:
    """Run it; exit status, and why it ended."""
    directory = config.directory
    refuse_used(directory)
    if launcher is None:
        launcher = _launcher(config)
    if isinstance(launcher, NitroLauncher | VmLauncher):
        launcher.check()
        own = launcher.measurement()
    else:
        own = measured(config)
    _allow_files(files_needed(config.clients_max))
    streams = Streams()
    stack.callback(streams.shut)
    kind = kinds(config.clients_max)
    rpc = Address(*streams.listen(config.rpc.host, config.rpc.port, kind[CLIENT]))
    peer = Address(*streams.listen(config.peer.host, config.peer.port, kind[PEER]))
    root = simulated_root(config.simulator) if config.simulator is not None else None
    _make(directory)
    stack.enter_context(_logging(directory / LOG, notice))
    why: list[str] = []

    def last_words(_kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        """Say why it ended, when all else has ended: the last line of the log."""
        if error is None:
            log.info("%s", why[-1])
        elif isinstance(error, LedgerdError):
            log.error("%s", error)
        return False

    stack.push(last_words)

    own_end, enclave_nsm = socket.socketpair()
    stack.callback(own_end.close)
    enclave = launcher.launch(config.app, enclave_nsm)
    stack.callback(enclave.close_output)
    stack.callback(lambda: log.info("the enclave %s", _how(enclave.stop(STOP_SECONDS))))
    if root is not None:
        pcrs = {index: bytes.fromhex(value) for index, value in enumerate((own.pcr0, own.pcr1, own.pcr2))}
        nsm = SimulatedNsm(root, pcrs, debug=config.debug)
        threading.Thread(target=serve, args=(nsm, own_end), name="nsm-simulator", daemon=True).start()
    storage = Storage(directory / LEDGER, config.ledger_bytes_max)
    stack.callback(storage.close)

    for name, pid in ((HOST_PID, os.getpid()), (ENCLAVE_PID, enclave.pid)):
        _write(directory / name, str(pid))
        stack.callback((directory / name).unlink, missing_ok=True)

    refused: list[str] = []

    def announce(name: str, text: str) -> None:
        if name == "refused":
            refused.append(text)
        log.info("%s: %s", name, printable(text.strip()) if "\n" not in text.strip() else f"{len(text)} characters")
        if name in NOTICE_FILES:
            _write(directory / NOTICE_FILES[name], text)
        if name in public_name.NOTICES and config.public_name is not None:
            public_name.keep(config.public_name, name, text)
        notice(name, text)

    announce("isolation", " ".join(enclave.isolation))
    for name, address in ((RPC_ADDRESS, rpc), (NODE_ADDRESS, peer)):
        _write(directory / name, str(address))
        announce(name, str(address))

    roots = [*config.roots, *([root.certificate_pem] if root is not None and root.certificate_pem not in config.roots else [])]
    document = enclave_document(config, rpc=rpc, peer=peer, isolation=enclave.isolation, roots=roots, own_measurement=own)
    host = Host(enclave.link, storage, streams, kind[OUTBOUND], enclave.output, announce)
    try:
        status = host.run(document, catch_signals)
    except EnclaveLostError as error:
        how = _how(enclave.stop(STOP_SECONDS))
        host.log_rest()
        raise EnclaveLostError(f"{error}; the enclave process {how}; {directory / LOG} may say why") from None
    if not status:
        why.append("stopped as asked")
    elif refused:
        why.append(refused[-1])
    else:
        why.append(f"the enclave ended the node with status {status} and gave no reason; {directory / LOG} may say more")
    return status, why[-1]


def _launcher(config: NodeConfig) -> Launcher:
    """The launcher that the configuration names. Raises: ConfigurationError: What it is to start cannot be."""
    if config.vm is not None and config.launcher == "vm":
        return VmLauncher(config.vm, default_folder(), say=lambda step: print(f"ledgerd: {step} ...", file=sys.stderr))
    if config.nitro is not None and config.launcher == "nitro":
        return NitroLauncher(config.nitro, config.directory, debug=config.debug)
    check_application(config.app, config.app_path)
    return ProcessLauncher(memory_bytes=config.memory_bytes, app_path=config.app_path)


def measured(config: NodeConfig) -> Measurement:
    """What the simulator says of a process in place of an image."""
    line = measure(config.app, config.app_path)
    return Measurement(line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex())


def _how(status: int | None) -> str:
    """How an enclave ended, in words."""
    if status is None:
        return "has ended"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def refuse_used(directory: Path) -> None:
    """A node never resumes from its disk, so its directory must be new, or empty but for other files.

    Raises: ConfigurationError: A node has run here, or runs.
    """
    if not (directory / HOST_PID).exists() and not holds_ledger(directory / LEDGER):
        return
    used = f"{directory} was used by a node before; a node never resumes from its disk: choose a new directory"
    if (directory / "retired").exists():
        raise ConfigurationError(f"{used}, for a new node. That one was retired, and nobody needs it or its files any more")
    raise ConfigurationError(
        f"{used}, and let a new node join with it, since the old one's keys died with its enclave. If a majority of the nodes has ended, "
        "the service stands still and nothing goes on by itself; keep their directories for recovery, which is not built yet (`ledgerd "
        "ledger verify` reads them)"
    )


def check_node(config: NodeConfig) -> None:
    """Look at the files that a start needs; `ledgerd doctor` looks at the machine.

    Raises: ConfigurationError: The directory was used, or the image is none; one line for each problem.
    """
    problems = []
    try:
        refuse_used(config.directory)
    except ConfigurationError as error:
        problems.append(str(error))
    if config.launcher == "vm" and config.vm is not None:
        problems += failures([vms.image(config.vm.image)])
    elif config.launcher == "nitro" and config.nitro is not None:
        problems += failures([images.image(config.nitro.image, "nitro")[0]])
    if problems:
        raise ConfigurationError("\n".join(problems))


def simulated_root(directory: Path) -> SimulatedRoot:
    """The root of a simulated platform, made in `directory` if it is not there; all nodes of one service use the same.

    Raises: ConfigurationError: It cannot be read or made.
    """
    certificate, key = directory / "root_cert.pem", directory / "root_privk.pem"
    try:
        if certificate.exists():
            return SimulatedRoot(certificate.read_text(), key.read_bytes())
        directory.mkdir(parents=True, exist_ok=True)
        root = make_root()
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(root.key_pem)
        _write(certificate, root.certificate_pem)
    except OSError as error:
        raise ConfigurationError(f"cannot use the simulated root in {directory}: {error.strerror}") from None
    return root


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot make {directory}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    """Whole or not at all: others wait for these files."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


class _Warnings(logging.Handler):
    """Hands warnings on; errors end the node, which says them itself."""

    def __init__(self, notice: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._notice = notice

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._notice("warning", record.getMessage())


@contextlib.contextmanager
def _logging(path: Path, notice: Callable[[str, str], None]) -> Iterator[None]:
    warnings = _Warnings(notice)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.addHandler(warnings)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(warnings)
        log.removeHandler(handler)
        handler.close()


def files_needed(clients_max: int) -> int:
    """How many open files a host with so many clients needs."""
    return clients_max + CLIENTS_OVER + 2 * PEERS_MAX + _FILES_BESIDE_STREAMS


def _allow_files(count: int) -> None:
    """Raise the soft limit of open files to what the streams may need.

    Raises: ConfigurationError: The hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise ConfigurationError(f"{count} open files are needed, {hard} allowed; raise `ulimit -n` or lower limits.clients")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
