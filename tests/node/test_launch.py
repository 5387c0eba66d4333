import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.launch import _CLONE_NEWNET, _CLONE_NEWUSER, _ISOLATIONS, ChildEnclave, ProcessLauncher
from support.processes import own_children

SECONDS_MAX = 120.0

# An "enclave" that tells what it has and can do, then waits for the end of its link.
PROBE = r"""
import ctypes, json, os, resource, socket, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
link = socket.socket(fileno=int(arguments["--link"]))
nsm = socket.socket(fileno=int(arguments["--nsm"]))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
told = {
    "app": arguments["--app"],
    "environment": dict(os.environ),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)),
    "pid": os.getpid(), "uid": os.getuid(), "session": os.getsid(0), "directory": os.getcwd(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "capabilities": status["CapEff"].strip(),
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("CORE", "FSIZE", "NOFILE", "AS")},
}
death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death), 0, 0, 0)
told["signal_at_hosts_death"] = death.value
try:
    socket.create_connection(("127.0.0.1", int(nsm.recv(100))), 2)
    told["network"] = "reached"
except OSError as error:
    told["network"] = "unreachable"
link.sendall(json.dumps(told).encode() + b"\n")
print("printed by the enclave", flush=True)
if link.recv(100) == b"hang":
    import time
    time.sleep(1000)
sys.exit(7)
"""


def can_isolate() -> bool:
    """Whether this kernel gives an ordinary process name spaces of its own."""
    ours, theirs = socket.socketpair()
    with ours:
        child = ProcessLauncher((sys.executable, "-c", "pass")).launch("app", theirs)
        words = child.isolation
        child.stop(SECONDS_MAX)
        child.close_output()
    return "network-namespace" in words


@pytest.fixture
def nsm() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def probe(nsm: tuple[socket.socket, socket.socket], launcher: ProcessLauncher) -> tuple[ChildEnclave, dict[str, object]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nsm[0].sendall(str(server.getsockname()[1]).encode())
        child = launcher.launch("some.app", nsm[1])
        child.link.settimeout(SECONDS_MAX)
        told = b""
        while not told.endswith(b"\n"):
            part = child.link.recv(1 << 16)
            assert part, os.read(child.output, 1 << 16).decode()
            told += part
    found: dict[str, object] = json.loads(told)
    return child, found


LAUNCHER = ProcessLauncher((sys.executable, "-I", "-c", PROBE), memory_bytes=1 << 30)


def test_the_child_has_nothing_but_its_two_sockets(nsm: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "must not get in")
    secret = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(secret, True)
    child, told = probe(nsm, LAUNCHER)
    os.close(secret)
    assert told["app"] == "some.app"
    assert told["environment"] in ({}, {"LC_CTYPE": "C.UTF-8"})  # Python's own
    assert told["descriptors"] == [0, 1, 2, 3, 4]
    assert told["directory"] == "/"
    assert told["no_new_privileges"] == "1"
    assert told["signal_at_hosts_death"] == signal.SIGKILL
    assert told["limits"] == {"CORE": [0, 0], "FSIZE": [0, 0], "NOFILE": [64, 64], "AS": [1 << 30, 1 << 30]}
    assert set(child.isolation) >= {"no-new-privileges", "resource-limits", "no-inherited-descriptors", "empty-environment"}
    assert child.stop(SECONDS_MAX) == 7
    assert child.stop(SECONDS_MAX) == 7
    assert os.read(child.output, 100) == b"printed by the enclave\n"
    assert os.read(child.output, 100) == b""
    child.close_output()


def test_the_child_has_name_spaces_of_its_own_where_it_says_so(nsm: tuple[socket.socket, socket.socket]) -> None:
    if not can_isolate():
        pytest.skip("this kernel gives no user name spaces to ordinary processes")
    child, told = probe(nsm, LAUNCHER)
    assert set(child.isolation) >= {"user-namespace", "network-namespace", "process-namespace"}
    assert told["network"] == "unreachable"
    assert told["interfaces"] == ["lo"]
    assert told["pid"] == 1
    assert told["uid"] == 65534
    assert told["capabilities"] == "0" * 16
    child.stop(SECONDS_MAX)
    child.close_output()


def test_where_name_spaces_are_refused_it_says_less_and_runs(nsm: tuple[socket.socket, socket.socket]) -> None:
    # The kernel refuses a combination that contradicts itself: CLONE_FS (0x200) with a user name space.
    refused = (_CLONE_NEWUSER | _CLONE_NEWNET | 0x200, ("user-namespace", "network-namespace"))
    child, told = probe(nsm, ProcessLauncher((sys.executable, "-I", "-c", PROBE), isolations=(refused, _ISOLATIONS[-1])))
    assert told["network"] == "reached"
    assert not any(word.endswith("namespace") for word in child.isolation)
    assert "no-new-privileges" in child.isolation
    child.stop(SECONDS_MAX)
    child.close_output()


def test_a_program_that_cannot_be_run_is_refused_and_leaves_nothing(nsm: tuple[socket.socket, socket.socket]) -> None:
    before, children = os.listdir("/proc/self/fd"), own_children()
    with pytest.raises(ConfigurationError, match=r"cannot be started \(.*exec: No such file or directory"):
        ProcessLauncher(("/no/such/program",)).launch("app", nsm[1])
    assert set(os.listdir("/proc/self/fd")) < set(before), "nothing new, and not the end that was handed over"
    assert own_children() <= children, "other tests' nodes may run beside this one"


def test_a_child_that_does_not_end_is_killed(nsm: tuple[socket.socket, socket.socket]) -> None:
    child, _ = probe(nsm, LAUNCHER)
    child.link.sendall(b"hang")
    assert child.stop(0.05) == -signal.SIGKILL
    child.close_output()


@pytest.mark.parametrize("isolation", range(len(_ISOLATIONS)))
def test_the_child_dies_with_its_host(isolation: int) -> None:
    """A host that is killed: a process of its own, that launches and waits."""
    report, child_report = os.pipe()
    host = os.fork()
    if host == 0:
        try:
            ours, theirs = socket.socketpair()
            ours.sendall(b"1")
            child = ProcessLauncher((sys.executable, "-I", "-c", PROBE), isolations=(_ISOLATIONS[isolation],)).launch("app", theirs)
            child.link.recv(1)
            child.link.sendall(b"hang")
            os.write(child_report, str(child.pid).encode())
            time.sleep(1000)
        except ConfigurationError:
            os.write(child_report, b"refused")
        finally:
            os._exit(0)
    os.close(child_report)
    told = os.read(report, 100)
    os.close(report)
    if told == b"refused":
        os.waitpid(host, 0)
        pytest.skip("this kernel does not allow it")
    enclave = os.pidfd_open(int(told))
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)
    ended = bool(select.select([enclave], [], [], SECONDS_MAX)[0])
    os.close(enclave)
    assert ended
