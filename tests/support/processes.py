"""A real service on this machine: host and enclave processes, sockets, disks.

`Service` starts nodes in a folder, finds their addresses, and ends every process that it started, whatever happened. Nothing here waits
for a fixed time: what is waited for is a file, a process or an answer, looked at often, until a deadline that only a failure reaches.
A machine that stands still for a second must not change what a test sees: nodes hold no elections but those that a test is about.
Not here: the process of a node (`support.node_process`), what is captured on wires (`support.wires`), HTTP (`support.https`), nodes in
one process (`support.cluster`).
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledgerd.node.ledger_files import LedgerReader
from support.cluster import make_identity
from support.https import AGAIN, Answer, Request, Session
from support.https import SECONDS_MAX as ANSWER_SECONDS_MAX
from support.wires import Proxy

SECONDS_MAX = 120.0  # for anything to happen; met only by what is broken
ENDING_SECONDS_MAX = 60.0  # for a process to end whose other half has ended
# How long nodes bear a silent primary: those that are to lose none, however busy the machine is; those that lose one as part of a test,
# and no other; and as they do where nobody says anything.
STEADY_MS = 30_000
PATIENT_MS = 6_000
DEFAULT_MS = 1_000
POLL_SECONDS = 0.005
APP = "ledgerd.apps.logging"
SCRIPT = Path(__file__).with_name("node_process.py")


def wait_for(condition: Callable[[], object], what: str, seconds: float = SECONDS_MAX) -> float:
    """Look until it holds; returns how long that took, in seconds.

    Raises: AssertionError: It did not within `seconds`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


class Wire(Protocol):
    """Stands before a node's address."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """`host:port`."""

    def close(self) -> None:
        """Cut everything."""


def own_children() -> set[str]:
    """Processes that this one started, ended ones that nobody waited for among them."""
    return {child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()}


class Node:
    """One node: its host process, and what its directory says of it."""

    def __init__(self, service: "Service", number: int) -> None:
        self.service = service
        self.number = number
        self.name = f"node{number}"
        self.directory = service.folder / self.name
        self.rpc_wire: Wire | None = None
        self.peer_wire: Wire | None = None
        self._output = (service.folder / f"{self.name}.output").open("wb")
        # It imports what it needs while its configuration is not yet known, and reads the name of the file from its standard input.
        self.process = subprocess.Popen(
            [sys.executable, "-P", *service.words(self)],
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent)},
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
        )
        self._enclave: int | None = None

    def begin(self, section: str) -> None:
        """Hand over the configuration; `section` is its [start] or [join]."""
        self.service.wire(self)
        wires = {
            name: "" if wire is None else f'published = "{wire.address}"'
            for name, wire in (("rpc", self.rpc_wire), ("peer", self.peer_wire))
        }
        file = self.service.folder / f"{self.name}.toml"
        file.write_text(
            f'[node]\ndirectory = "{self.name}"\napp = "{APP}"\n'
            f'[rpc]\nlisten = "127.0.0.1:0"\n{wires["rpc"]}\n[peer]\nlisten = "127.0.0.1:0"\n{wires["peer"]}\n'
            f'[attestation]\nsimulator = "simulator"\n{section}\n{self.service.more(self.number)}\n{self.service.consensus}'
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{file}\n".encode())
        self.process.stdin.close()

    def wait_file(self, name: str) -> str:
        """Text of a file of the node's directory, once it is there."""
        path = self.directory / name
        wait_for(lambda: path.exists() or self.process.poll() is not None, f"{self.name} writes {name}")
        assert path.exists(), f"{self.name} ended with status {self.process.returncode}: {self.output()}"
        return path.read_text().strip()

    def wait_open(self) -> None:
        """Wait until the node serves an open service."""
        self.wait_file("open")
        self._enclave = os.pidfd_open(self.enclave_pid)

    def bound(self, name: str) -> tuple[str, int]:
        """Where it listens itself, once it does: `rpc_address` or `node_address`."""
        host, _, port = self.wait_file(name).rpartition(":")
        return host, int(port)

    @property
    def rpc(self) -> tuple[str, int]:
        """Where clients connect: host and port; of the captured wire where there is one."""
        if self.rpc_wire is not None:
            return self.rpc_wire.host, self.rpc_wire.port
        return self.bound("rpc_address")

    @property
    def url(self) -> str:
        """The same as a URL."""
        return "https://{}:{}".format(*self.rpc)

    @property
    def id(self) -> str:
        """Its name in the service."""
        return self.wait_file("node_id")

    @property
    def enclave_pid(self) -> int:
        """Process id of its enclave."""
        return int(self.wait_file("enclave.pid"))

    @property
    def host_pid(self) -> int:
        """Process id of its host."""
        return int(self.wait_file("host.pid"))

    def session(self, user: str | None = None, seconds: float = ANSWER_SECONDS_MAX) -> Session:
        """Connect as a client, as nobody, or as `user0` or `member0`, who waits so long for any word."""
        folder = self.service.folder
        identity = None if user is None else (folder / f"{user}_cert.pem", folder / f"{user}_privk.pem")
        return Session(self.rpc, self.service.certificate, identity, seconds)

    def ask_until_answered(self, requests: Sequence[Request]) -> list[Answer]:
        """What it answers in the end to requests that may be repeated: one that it cannot answer now, as in an election, is asked again."""
        answers: dict[int, Answer] = {}

        def are_answered() -> bool:
            left = [number for number in range(len(requests)) if number not in answers]
            with self.session() as session:
                found = zip(left, session.ask_all([requests[number] for number in left]), strict=True)
            answers.update((number, answer) for number, answer in found if answer.status not in AGAIN)
            return len(answers) == len(requests)

        wait_for(are_answered, f"{self.name} answers")
        return [answers[number] for number in range(len(requests))]

    def committed(self) -> int:
        """Seqno up to which the node says that the ledger is committed."""
        with self.session() as session:
            answer = session.ask("GET", "/app/commit").json()
        return int(str(answer["transaction_id"]).partition(".")[2])

    def entries(self, last: int | None = None) -> list[bytes]:
        """Entries on its disk from the first on."""
        with LedgerReader(self.directory / "ledger") as reader:
            found = list(reader.entries(1, last))
        assert [seqno for seqno, _ in found] == list(range(1, len(found) + 1))
        return [data for _, data in found]

    def committed_on_disk(self) -> int:
        """Seqno up to which its disk says that the ledger is committed; may be behind."""
        with LedgerReader(self.directory / "ledger") as reader:
            return reader.committed_seqno()

    def log(self) -> str:
        """What it logged."""
        path = self.directory / "node.log"
        return path.read_text() if path.exists() else ""

    def output(self) -> str:
        """What it printed."""
        return Path(self._output.name).read_text(errors="replace")

    def kill_host(self) -> None:
        """SIGKILL to the host process."""
        self.process.kill()

    def kill_enclave(self) -> None:
        """SIGKILL to the enclave process."""
        assert self._enclave is not None
        signal.pidfd_send_signal(self._enclave, signal.SIGKILL)

    def wait_enclave_ended(self, seconds: float = ENDING_SECONDS_MAX) -> bool:
        """Whether the enclave process ends in time."""
        return self._enclave is None or bool(select.select([self._enclave], [], [], seconds)[0])

    def close(self) -> bool:
        """End both processes at once; False if the enclave outlived its host and had to be killed."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)  # works for stopped ones, too
        self.process.wait()
        for wire in (self.rpc_wire, self.peer_wire):
            if wire is not None:
                wire.close()
        self._output.close()
        clean = self.wait_enclave_ended()
        if self._enclave is not None:
            if not clean:
                self.kill_enclave()
            os.close(self._enclave)
            self._enclave = None
        return clean


class Service:
    """A service of real nodes in a folder of its own; a context manager that leaves no process behind.

    Args:
        folder: Where everything is written.
        nodes: How many to start.
        captured: Put a proxy before every published address, and record it as well as the link of every enclave.
        policy: Who may use the application.
        curve: Of the service's key and its nodes'; the default if None.
        enclave: Words that start an enclave, in place of this Python.
        election_ms: The election timeout. As it is, no test meets an election, and another view, that it did not ask for.
        more: Further sections of a node's configuration, by its number.
    """

    running: ClassVar[list["Service"]] = []
    last_words: ClassVar[list[tuple[str, str]]] = []  # of services that an error ended, for whoever reports it

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        *,
        captured: bool = False,
        policy: str = "open",
        curve: str | None = None,
        enclave: tuple[str, ...] = (),
        election_ms: int = STEADY_MS,
        more: Callable[[int], str] = lambda number: "",
    ) -> None:
        self.folder = folder
        self.more = more
        self.consensus = f"[consensus]\nelection_timeout_ms = {election_ms}\n"
        self.is_captured = captured
        self.node_options = ("--tee",) if captured else ("--enclave", *enclave) if enclave else ()
        self.nodes: list[Node] = []
        self._start_more = "" if curve is None else f'curve = "{curve}"\n'
        self._policy = policy
        self._count = nodes

    def __enter__(self) -> "Service":
        Service.running.append(self)
        try:
            self._start(self._count)
        except BaseException as error:
            self.__exit__(error)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            Service.last_words.extend(self.logs())
        self.close()

    @property
    def certificate(self) -> Path:
        """The service's certificate, PEM."""
        return self.folder / "service_cert.pem"

    def words(self, node: Node) -> list[str]:
        """The program that is a node's host, and its arguments."""
        return [str(SCRIPT), str(os.getpid()), *self.node_options]

    def wire(self, node: Node) -> None:
        """Put something before a node's addresses, or nothing."""
        if self.is_captured:
            node.rpc_wire = Proxy(lambda: node.bound("rpc_address"))
            node.peer_wire = Proxy(lambda: node.bound("node_address"))

    def _start(self, count: int) -> None:
        for name in ("member0", "user0"):
            identity = make_identity(name)
            (self.folder / f"{name}_cert.pem").write_text(identity.pem)
            key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (self.folder / f"{name}_privk.pem").write_bytes(key)
        self.nodes = [Node(self, number) for number in range(count)]
        first = self.nodes[0]
        first.begin(
            f'[start]\nadmission = "automatic"\nopen_at_nodes = {count}\napplication_policy = "{self._policy}"\n{self._start_more}'
            '[[start.members]]\ncertificate = "member0_cert.pem"\n[[start.users]]\ncertificate = "user0_cert.pem"'
        )
        first.wait_file("service_cert.pem")
        shutil.copy(first.directory / "service_cert.pem", self.certificate)
        for node in self.nodes[1:]:
            node.begin(self._joining())
        for node in self.nodes:
            node.wait_open()

    def _joining(self) -> str:
        host, port = self.alive()[0].rpc
        return f'[join]\ntarget = "{host}:{port}"\nservice_certificate = "service_cert.pem"'

    def add(self) -> Node:
        """Let one more node join; returns when it knows the whole genesis and serves."""
        node = Node(self, len(self.nodes))
        self.nodes.append(node)
        node.begin(self._joining())
        node.wait_open()
        return node

    def alive(self) -> list[Node]:
        """Nodes whose host runs."""
        return [node for node in self.nodes if node.process.poll() is None]

    def primary(self) -> Node:
        """The one node, itself alive, that all that are alive call primary."""
        found: list[Node] = []

        def agreed() -> bool:
            alive = self.alive()
            ids = set()
            for node in alive:
                with node.session() as session:
                    ids.add(session.ask("GET", "/node/network").json()["primary_id"])
            found[:] = [node for node in alive if {node.id} == ids]
            return bool(found)

        wait_for(agreed, "all nodes name the same living primary")
        return found[0]

    def backups(self) -> list[Node]:
        """The other nodes that are alive."""
        primary = self.primary()
        return [node for node in self.alive() if node is not primary]

    def settle(self, at_least: int = 0) -> int:
        """Wait until all nodes that are alive have committed the same, beyond `at_least`, and hold nothing else; returns the seqno."""
        seen: list[int] = []

        def settled() -> bool:
            seen[:] = [node.committed() for node in self.alive()]
            return len(set(seen)) == 1 and seen[0] >= at_least and all(len(node.entries()) == seen[0] for node in self.alive())

        wait_for(settled, f"all nodes commit {at_least} and agree")
        return seen[0]

    def logs(self) -> Iterator[tuple[str, str]]:
        """What each node said, for a test that failed."""
        for node in self.nodes:
            yield f"{self.folder.name}/{node.name}", f"{node.output()}\n{node.log()[-6000:]}"

    def close(self) -> None:
        """End all processes. Raises: AssertionError: An enclave outlived its host."""
        if self in Service.running:
            Service.running.remove(self)
        left = [node.name for node in self.nodes if not node.close()]
        assert not left, f"enclaves that outlived their hosts: {left}"
