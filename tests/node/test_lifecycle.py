import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledgerd.node import lifecycle
from support.echo_enclave import SECRET

SECONDS_MAX = 120.0
SCRIPT = Path(__file__).parent.parent / "support" / "echo_node.py"


class Node:
    """A node with a fake enclave: host and enclave are processes of their own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.directory = folder / "node0"
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def notices(self, last: str) -> dict[str, str]:
        """Read notices until one of a name."""
        assert self.process.stdout is not None
        found: dict[str, str] = {}
        while last not in found:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            name, _, text = line.strip().partition(" ")
            found[name] = text
        return found

    def client(self) -> socket.socket:
        host, _, port = (self.directory / "rpc_address").read_text().rpartition(":")
        return socket.create_connection((host, int(port)), SECONDS_MAX)

    def pid(self, name: str) -> int:
        return int((self.directory / name).read_text())

    def finish(self) -> tuple[int, str]:
        """Exit status and standard error."""
        _, errors = self.process.communicate(timeout=SECONDS_MAX)
        return self.process.returncode, errors

    def log(self) -> str:
        return (self.directory / "node.log").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    if node.process.poll() is None:
        node.process.kill()
    node.process.communicate()


def wait_end(descriptor: int) -> bool:
    ended = bool(select.select([descriptor], [], [], SECONDS_MAX)[0])
    os.close(descriptor)
    return ended


def test_a_node_serves_tells_what_it_is_and_leaves_nothing_when_it_is_stopped(node: Node) -> None:
    notices = node.notices("state")
    assert "no-new-privileges" in notices["isolation"]
    assert notices["rpc_address"] == (node.directory / "rpc_address").read_text()
    assert notices["node_address"] == (node.directory / "node_address").read_text()
    assert notices["state"] == (node.directory / "state").read_text() == "echo"
    enclave = os.pidfd_open(node.pid("enclave.pid"))
    assert node.pid("host.pid") == node.process.pid
    with node.client() as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        client.sendall(b"store 2 100")
        assert client.recv(100) == b"stored 0 2.2"
        client.sendall(b"nsm")
        assert client.recv(1000).startswith(b"\xa1iGetRandom")
        node.process.send_signal(signal.SIGTERM)
        assert node.finish() == (0, "ledgerd: stopped as asked\n")
        assert node.log().splitlines()[-1].endswith(" INFO stopped as asked")
        assert client.recv(100) == b""
    assert wait_end(enclave)
    assert sorted(path.name for path in node.directory.iterdir()) == [
        "isolation",
        "ledger",
        "node.log",
        "node_address",
        "rpc_address",
        "state",
    ]


def test_a_host_that_is_killed_takes_its_enclave_along(node: Node) -> None:
    node.notices("state")
    enclave = os.pidfd_open(node.pid("enclave.pid"))
    node.process.kill()
    assert wait_end(enclave)


def test_an_enclave_that_is_killed_ends_its_host_with_the_reason(node: Node) -> None:
    node.notices("state")
    os.kill(node.pid("enclave.pid"), signal.SIGKILL)
    status, errors = node.finish()
    assert status == 1
    assert "the enclave process was ended by signal 9" in errors
    assert errors.count("\n") == 1


def test_an_enclave_that_fails_tells_where_but_not_what_it_held(node: Node) -> None:
    node.notices("state")
    with node.client() as client:
        client.sendall(b"crash")
        status, errors = node.finish()
    assert status == 1
    assert "the enclave process ended with status 1" in errors
    assert "KeyError" in node.log()
    assert "echo_enclave.py:" in node.log()
    assert SECRET not in node.log() + errors


def test_the_enclaves_exit_status_is_the_nodes(node: Node) -> None:
    node.notices("state")
    with node.client() as client:
        client.sendall(b"stop 5")
        status, errors = node.finish()
    assert (status, errors.count("\n")) == (5, 1)
    assert errors.startswith("ledgerd: the enclave ended the node with status 5 and gave no reason; ")


def test_why_the_node_was_refused_is_the_one_line_at_the_end(node: Node) -> None:
    node.notices("state")
    with node.client() as client:
        client.sendall(b"stop 1 nonce: stale; try again")
        assert node.finish() == (1, "ledgerd: nonce: stale; try again\n")
    assert node.log().splitlines()[-1].endswith(" nonce: stale; try again")


def test_the_log_ends_with_the_line_that_standard_error_ends_with(node: Node) -> None:
    node.notices("state")
    os.kill(node.pid("enclave.pid"), signal.SIGKILL)
    _, errors = node.finish()
    assert node.log().splitlines()[-1].partition(" ERROR ")[2] == errors.strip().removeprefix("ledgerd: ")


def test_what_has_passed_the_link_is_logged_when_asked_and_at_the_end(node: Node) -> None:
    node.notices("state")
    with node.client() as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        node.process.send_signal(signal.SIGUSR1)
        while "numbers: " not in node.log():
            client.sendall(b"again")
            assert client.recv(100) == b"again"
    node.process.send_signal(signal.SIGTERM)
    assert node.finish()[0] == 0
    numbers = [line for line in node.log().splitlines() if " numbers: " in line]
    assert len(numbers) == 2
    sent = [int(line.partition("link_bytes_sent ")[2].partition(",")[0]) for line in numbers]
    assert 0 < sent[0] < sent[1]


def test_a_port_in_use_is_one_line_and_status_2_and_the_directory_stays_new(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        status, errors = Node(tmp_path, server.getsockname()[1]).finish()
    assert status == 2
    assert errors.startswith("ledgerd: cannot listen on 127.0.0.1:")
    assert "address already in use" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "node0").exists()


def test_a_used_directory_is_one_line_and_status_2(node: Node) -> None:
    node.notices("state")
    node.process.send_signal(signal.SIGINT)
    assert node.finish()[0] == 0
    status, errors = Node(node.folder).finish()
    assert status == 2
    assert "was used by a node before; a node never resumes from its disk: choose a new directory" in errors
    assert errors.count("\n") == 1


def test_who_watches_a_node_hears_its_warnings_and_the_log_has_all(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    with lifecycle._logging(tmp_path / "node.log", lambda name, text: heard.append((name, text))):
        lifecycle.log.info("all is well")
        lifecycle.log.warning("joining: no connection to %s; trying again", "127.0.0.1:9")
        lifecycle.log.error("the last word, which the command says itself")
    assert heard == [("warning", "joining: no connection to 127.0.0.1:9; trying again")]
    assert [line.split()[2] for line in (tmp_path / "node.log").read_text().splitlines()] == ["INFO", "WARNING", "ERROR"]
