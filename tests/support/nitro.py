"""An AWS instance made of a folder: the files that it would have in /sys, /etc and /dev, and a `nitro-cli` that answers as the real one."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from ledgerd.enclave.boundary import LINK_PORT_DEFAULT
from ledgerd.node.config import NitroConfig
from ledgerd.node.image import eif
from ledgerd.node.nitro.machine import Machine
from ledgerd.node.nitro.transport import Accepted, accept

CLI = Path(__file__).with_name("fake_nitro_cli.py")
APP = "ledgerd.apps.logging"


class UnixListener:
    """Stands for a vsock port: a UNIX socket of that number in a folder; like a port, only one can have it at a time.

    Attributes:
        cid: Whom connections come from, one after the other; the last for all that follow.
    """

    def __init__(self, folder: Path, port: int, cids: list[int | None] | None = None) -> None:
        self._path = folder / f"vsock-{port}"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._path))
        self._socket.listen()
        self.cids = cids or [None]

    def accept(self, seconds: float) -> Accepted | None:
        accepted = accept(self._socket, seconds)
        if accepted is None:
            return None
        return accepted._replace(cid=self.cids.pop(0) if len(self.cids) > 1 else self.cids[0])

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


class FolderMachine(Machine):
    """The machine in a folder. Attributes: may_use: whether this user may use the device; is_new_to_group: but only after a login."""

    may_use = True
    is_new_to_group = False

    def usable(self, path: str) -> bool:
        return self.may_use and self.exists(path)

    def waits_for_login(self) -> bool:
        return self.is_new_to_group

    def user(self) -> str:
        return "ec2-user"


class Instance:
    """A well-prepared instance; a test spoils what it is about. A context manager that leaves no enclave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = FolderMachine(folder / "root")
        self.cli = folder / "cli" / "nitro-cli"
        self.cli.parent.mkdir(parents=True)
        shutil.copy(CLI, self.cli)
        # The real one is a program of the system; this one runs under this very Python.
        self.cli.write_text(self.cli.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
        self.settings(memory_mib=4096, cpus=4)
        for path, text in {
            "sys/class/dmi/id/sys_vendor": "Amazon EC2",
            "sys/module/nitro_enclaves/parameters/ne_cpus": "2-5",
            "sys/devices/system/cpu/smt/active": "1",
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "2048",
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "2048",
            "etc/nitro_enclaves/allocator.yaml": "---\n# Enclave configuration file.\n# Memory in MiB\nmemory_mib: 4096\ncpu_count: 4\n",
            "dev/nitro_enclaves": "",
            "dev/vsock": "",
        }.items():
            self.write(path, text)
        self.image = folder / "ledger.eif"
        self.build()

    def __enter__(self) -> "Instance":
        return self

    def __exit__(self, *_: object) -> None:
        for path in (self.cli.parent / "enclaves").glob("*.json"):
            with contextlib.suppress(OSError):
                os.kill(int(path.stem), signal.SIGKILL)

    def write(self, path: str, text: str) -> None:
        """Change a file of the machine."""
        target = self.machine.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder, of the machine."""
        target = self.machine.root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    def settings(self, **changes: Any) -> None:
        """Tell `nitro-cli` how to answer."""
        path = self.cli.parent / "settings.json"
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))

    def build(self, *, boots: bool = False, command: list[str] | None = None, platform: bytes = b"platform", size: int = 0) -> Path:
        """Write the image, of `size` bytes or what it takes; `boots` puts the enclave's real runtime in it."""
        if boots:
            script = str(Path(__file__).with_name("unix_enclave.py"))
            link, root = self.folder / f"vsock-{LINK_PORT_DEFAULT}", self.folder / "simulator"
            command = [sys.executable, "-I", script, str(link), str(root), "{pcr0}", "{pcr1}", "{pcr2}", APP]
        ramdisks = [platform, json.dumps({"boot": command}).encode()]
        data = eif.write(b"kernel", "console=ttyS0", ramdisks, metadata=None)
        if size:
            data = eif.write(b"kernel" + bytes(size - len(data)), "console=ttyS0", ramdisks, metadata=None)
        self.image.write_bytes(data)
        return self.image

    def measurement(self) -> dict[str, str]:
        """PCRs of the image as allow-lists have them."""
        return {f"pcr{index}": value.hex() for index, value in enumerate(eif.read(self.image.read_bytes()).measure()[:3])}

    @classmethod
    def at(cls, folder: Path) -> "Instance":
        """The instance that another process has made there."""
        found = cls.__new__(cls)
        found.folder, found.machine = folder, FolderMachine(folder / "root")
        found.cli, found.image = folder / "cli" / "nitro-cli", folder / "ledger.eif"
        return found

    def config(self, **changes: Any) -> NitroConfig:
        """What to start."""
        return NitroConfig(**{"image": self.image, "memory_mb": 512, "cpus": 2, "cli": str(self.cli), **changes})

    def calls(self, command: str) -> list[list[str]]:
        """Arguments of each call of a command so far."""
        path = self.cli.parent / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[2:] for call in map(json.loads, lines) if call[1] == command]

    def running(self) -> list[int]:
        """Processes of enclaves that run."""
        found = []
        for path in (self.cli.parent / "enclaves").glob("*.json"):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{path.stem}/stat").read_text().rpartition(") ")[2][:1] != "Z":
                    found.append(int(path.stem))
        return found

    def listen(self, port: int) -> UnixListener:
        """In place of a vsock."""
        return UnixListener(self.folder, port)
