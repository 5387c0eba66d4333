"""One node's host as a process of its own, for `support.processes`: `python -P node_process.py PARENT_PID [--tee | --enclave WORD...]`.

It imports first, then reads the name of its configuration from standard input, and dies with the process that started it.
With `--tee` all that crosses the link to the enclave, and the way to its security module, is also written to files beside the node's
directory: what a curious host would see. With `--enclave` those words start the enclave, in place of this Python.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from ledgerd.node.config import load
from ledgerd.node.launch import ProcessLauncher, RunningEnclave
from ledgerd.node.lifecycle import run_node

_PR_SET_PDEATHSIG = 1


class TeeLauncher:
    """Launches as the product does, with a pair of threads in the middle of each way between enclave and host."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._inner = ProcessLauncher()

    def launch(self, app: str, nsm: socket.socket) -> RunningEnclave:
        """As `Launcher.launch`."""
        own_nsm, enclave_nsm = socket.socketpair()
        enclave = self._inner.launch(app, enclave_nsm)
        host_link, own_link = socket.socketpair()
        for name, inside, outside in (("link", enclave.link, own_link), ("nsm", own_nsm, nsm)):
            self._pump(inside, outside, f"{name}.out")
            self._pump(outside, inside, f"{name}.in")
        enclave.link = host_link
        return enclave

    def _pump(self, source: socket.socket, target: socket.socket, name: str) -> None:
        file = self._prefix.with_name(f"{self._prefix.name}.{name}").open("wb", buffering=0)

        def pump() -> None:
            try:
                while data := source.recv(1 << 18):
                    file.write(data)
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # one of the two has ended; the other will see it

        threading.Thread(target=pump, daemon=True).start()


def main(parent: int, tee: bool, enclave: list[str]) -> int:
    """Be a node until it ends; returns its exit status."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    config = load(Path(sys.stdin.readline().strip()))
    launcher = TeeLauncher(config.directory) if tee else ProcessLauncher(enclave) if enclave else None
    return run_node(config, launcher=launcher)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), "--tee" in sys.argv[:3], sys.argv[3:] if "--enclave" in sys.argv[:3] else []))
