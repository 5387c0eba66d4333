"""The enclave process's entry: `python -m ledgerd.enclave.runtime --link LINK --nsm NSM --app MODULE`.

LINK is the number of an inherited, connected UNIX socket, or `vsock:PORT` (the parent's CID 3). NSM is a device's path or the
number of an inherited socket to a simulator. MODULE has the application as `app`.
Law: what this process prints can be read by the host. So an unforeseen exception is told by its type and the lines of code it
passed, never by its message or values; only our own errors, which hold no secrets by contract, speak for themselves.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, Final

from ledgerd.enclave.boundary import Ready
from ledgerd.enclave.runtime.link import Link, LinkClosedError
from ledgerd.enclave.runtime.loop import run
from ledgerd.enclave.runtime.nsm import DeviceNsm, NsmTransport, SocketNsm
from ledgerd.enclave.runtime.platform import prepare
from ledgerd.enclave.runtime.workers import Workers
from ledgerd.ledger.errors import HostError, LedgerdError

EXIT_FAILED: Final = 1
EXIT_MISUSE: Final = 2
_VSOCK_PARENT_CID: Final = 3
_PR_SET_DUMPABLE: Final = 4
# Objects of the young generation before a collection. The hot path makes no cycles, so collections find next to nothing;
# the old generation holds the state, a walk through which stops the loop.
_GC_THRESHOLDS: Final = (50_000, 50, 1_000)
# What the allocator keeps for the next round rather than give it back to the kernel after each: as much as a round's messages take, several
# times. Without it they come as fresh pages, some 250 faults a round. Larger ones than half of it are mapped and given back one by one.
_KEPT_SIZE_BYTES: Final = 16 << 20
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def main(arguments: list[str], make_core: Callable[[Any, float], Any] | None = None) -> int:
    """Run an enclave until its host is gone or its core stops; return the exit status.

    Args:
        arguments: Command line without the program's name.
        make_core: Makes the core from the application and the time; the real `Enclave` unless told (tests).
    """
    _keep_secrets()
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if set(options) != {"--link", "--nsm", "--app"} or len(arguments) != 6:
        print("usage: python -m ledgerd.enclave.runtime --link FD|vsock:PORT --nsm PATH|FD --app MODULE", file=sys.stderr)
        return EXIT_MISUSE
    # Ctrl-C reaches a whole process group; it is the host that decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link = Link(_open_link(options["--link"]))
    try:
        nsm = _open_nsm(options["--nsm"])
        found = prepare(nsm, is_device=isinstance(nsm, DeviceNsm))
    except LedgerdError as error:
        return _refuse(link, error)
    if make_core is None:
        make_core = importlib.import_module("ledgerd.enclave.core").Enclave
    app = importlib.import_module(options["--app"]).app
    core = make_core(app, time.monotonic())
    for level, text in found:
        core.log(level, text)
    workers = Workers(nsm)
    core.traffic = link.traffic
    core.compiled_modules = compiled_modules()
    core.script_workers = len(os.sched_getaffinity(0))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    keep_memory()
    try:
        return run(core, link, workers)
    except LinkClosedError:
        return 0  # the host ended, or was killed; nothing is left to serve
    except HostError as error:  # what it sent is no frame, or no event: nothing that follows could be believed either
        return _refuse(link, error)


def compiled_modules() -> int:
    """How many of this program's modules run as machine code: those that came from extension files (docs/adr/0010), as far as loaded."""
    return sum(
        name.startswith("ledgerd.") and not name.endswith("__mypyc") and (getattr(module, "__file__", None) or "").endswith(".so")
        for name, module in sys.modules.items()
    )


def keep_memory() -> bool:
    """Have the C library keep up to `_KEPT_SIZE_BYTES` of freed memory. False where it is another than glibc, and does as it likes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_SIZE_BYTES) and mallopt(_M_MMAP_THRESHOLD, _KEPT_SIZE_BYTES // 2))


def _open_link(name: str) -> socket.socket:
    if name.startswith("vsock:"):
        link = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        link.connect((_VSOCK_PARENT_CID, int(name.removeprefix("vsock:"))))
        return link
    return socket.socket(fileno=int(name))


def _open_nsm(name: str) -> NsmTransport:
    if name.isdigit():
        return SocketNsm(socket.socket(fileno=int(name)))
    try:
        return DeviceNsm(name)
    except OSError as error:
        raise HostError(f"the security module {name} cannot be opened: {error.strerror}; is this a Nitro Enclave?") from None


def _refuse(link: Link, error: LedgerdError) -> int:
    """Tell the host why nothing begins."""
    ready = Ready()
    ready.notices, ready.logs, ready.stop = [("refused", str(error))], [("error", str(error))], EXIT_FAILED
    with contextlib.suppress(LinkClosedError):
        link.send(ready)
    return EXIT_FAILED


def describe(error: BaseException) -> str:
    """Tell of an exception without telling what it holds: its type, where it passed, and the message only if it is one of ours."""
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__, limit=-20)]
    if isinstance(error, LedgerdError):
        return "\n".join([f"{error.code}: {error}", *lines])
    return "\n".join([f"{type(error).__name__} (its message is withheld, it may hold private data)", *lines])


def _keep_secrets() -> None:
    """Keep memory and messages from the outside: no core dump, no debugger of the same user, no exception's text."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

    def report(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        print(describe(error.with_traceback(trace)), file=sys.stderr, flush=True)

    def report_in_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            print(describe(arguments.exc_value), file=sys.stderr, flush=True)

    def report_unraisable(arguments: Any) -> None:
        if arguments.exc_value is not None:
            print(describe(arguments.exc_value), file=sys.stderr, flush=True)

    sys.excepthook = report
    threading.excepthook = report_in_thread
    sys.unraisablehook = report_unraisable
