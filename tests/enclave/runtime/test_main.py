import platform
import socket
import subprocess
import sys
import threading
from types import ModuleType

import pytest

from ledgerd.enclave.boundary import FRAME_SIZE_BYTES_MAX, Framing, Ready, decode_ready
from ledgerd.enclave.runtime.main import compiled_modules, describe
from ledgerd.ledger.errors import IntegrityError
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import make_root
from ledgerd.node.simulator.server import serve
from support.echo_enclave import SECRET


def test_an_unforeseen_exception_is_told_without_what_it_holds() -> None:
    with pytest.raises(KeyError) as caught:
        dict[str, str]()[SECRET]
    text = describe(caught.value)
    assert SECRET not in text
    assert text.startswith("KeyError")
    assert "test_main.py:" in text


def test_our_own_errors_speak_for_themselves() -> None:
    assert "root differs" in describe(IntegrityError("root differs"))


def test_modules_that_extension_files_brought_are_counted_and_their_shared_library_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled_modules()
    for name, path in (
        ("ledgerd.enclave.hot", "/somewhere/hot.cpython-311-x86_64-linux-gnu.so"),
        ("ledgerd.enclave.compiled__mypyc", "/somewhere/compiled__mypyc.cpython-311-x86_64-linux-gnu.so"),
        ("ledgerd.enclave.cold", "/somewhere/cold.py"),
        ("elsewhere.hot", "/somewhere/hot.so"),
    ):
        module = ModuleType(name)
        module.__file__ = path
        monkeypatch.setitem(sys.modules, name, module)
    assert compiled_modules() == before + 1


FAULTS_BY_ROUND = """
import resource
from ledgerd.enclave.runtime.main import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    messages = [b"x" * 200_000 for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keeps}:
    assert keep_memory()
print(*[faults() for _ in range(20)][5:])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_what_a_round_takes_of_memory_does_not_come_as_fresh_pages_each_time() -> None:
    def median(keeps: bool) -> int:
        program = FAULTS_BY_ROUND.format(keeps=keeps)
        result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        return sorted(map(int, result.stdout.split()))[7]

    assert median(keeps=False) > 100, "without it this test would show nothing"
    assert median(keeps=True) < 10


def run_enclave(nsm: str, descriptors: tuple[int, ...] = (), app: str = "none", says: bytes = b"") -> tuple[int, list[Ready]]:
    """Run the enclave's process to its end, with a host that says only so much; exit status, and all that was said over the link."""
    host, enclave = socket.socketpair()
    host.settimeout(120)
    with host:
        with enclave:
            child = subprocess.Popen(
                [sys.executable, "-m", "ledgerd.enclave.runtime", "--link", str(enclave.fileno()), "--nsm", nsm, "--app", app],
                pass_fds=(enclave.fileno(), *descriptors),
            )
        host.sendall(says)
        framing = Framing()
        said: list[Ready] = []
        while count := host.recv_into(framing.space()):
            framing.filled(count)
            said.extend(decode_ready(body) for body in framing.bodies())
        return child.wait(120), said


def test_without_a_security_module_the_host_is_told_why_nothing_begins() -> None:
    status, (last,) = run_enclave("/dev/null/nsm")
    assert status == last.stop == 1
    assert ("refused", "the security module /dev/null/nsm cannot be opened: Not a directory; is this a Nitro Enclave?") in [
        tuple(notice) for notice in last.notices
    ]


def test_a_security_module_that_is_none_ends_the_enclave_before_its_application_is_loaded() -> None:
    module, theirs = socket.socketpair()
    with module:
        module.sendall(b"\0\0\0\1\xf6")
        with theirs:
            status, (last,) = run_enclave(str(theirs.fileno()), (theirs.fileno(),))
    assert status == last.stop == 1
    assert "the security module cannot be used: " in dict(last.notices)["refused"]


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ((FRAME_SIZE_BYTES_MAX + 1).to_bytes(4, "big") + bytes(4), "the limit is"),
        (bytes(4) + (1).to_bytes(4, "big"), "more than was used"),
        ((3).to_bytes(4, "big") + bytes(4) + b"\x91\x91\x63", "without a known tag"),
        ((1).to_bytes(4, "big") + bytes(4) + b"\xc1", "not msgpack"),
    ],
    ids=["a frame without end", "credit that was never used", "an event that is none", "no msgpack"],
)
def test_a_host_that_speaks_nonsense_is_told_why_the_enclave_ends(says: bytes, why: str) -> None:
    module, theirs = socket.socketpair()
    threading.Thread(target=serve, args=(SimulatedNsm(make_root(), dict.fromkeys(range(3), b"\x10" * 48)), module), daemon=True).start()
    with theirs:
        status, said = run_enclave(str(theirs.fileno()), (theirs.fileno(),), "ledgerd.apps.logging", says)
    assert status == said[-1].stop == 1
    assert why in dict(said[-1].notices)["refused"]
