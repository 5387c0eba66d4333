"""Stands in for QEMU: takes its arguments, and is a guest that does what a machine's init and enclave do first.

Run as `fake_qemu.py MODE ARGUMENTS...`. MODE is `serve` (heartbeat, one question to the security module, then the link's bytes come back
until it ends), `silent` (starts and never connects), or `panic` (says so and ends).
"""

import json
import os
import socket
import sys
import time
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import itertools

from support.virtio import DATA, REQUEST, RESPONSE, SHUTDOWN, Guest, Monitor, Packet


class Driver:
    """Streams to the host, one after the other."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.guest = monitor.guest
        self.waiting: list[Packet] = []

    def send(self, packet: Packet) -> None:
        self.guest.sent()
        self.guest.send(packet)
        self.monitor.kick(1)

    def next(self, port: int) -> Packet:
        while True:
            for packet in self.waiting:
                if packet.host_port == port:
                    self.waiting.remove(packet)
                    return packet
            self.monitor.wait_call(0)
            self.waiting += self.guest.received()
            self.monitor.kick(0)

    def connect(self, port: int) -> None:
        self.send(Packet(REQUEST, 1000 + port, port))
        assert self.next(port).operation == RESPONSE

    def data(self, port: int, data: bytes) -> None:
        self.send(Packet(DATA, 1000 + port, port, data))


def main(mode: str, arguments: list[str]) -> int:
    options = {name: value for name, value in itertools.pairwise(arguments) if name.startswith("-")}
    started = {
        "kernel": sha256(Path(options["-kernel"]).read_bytes()).hexdigest(),
        "ramdisks": sha256(Path(options["-initrd"]).read_bytes()).hexdigest(),
        "append": options["-append"],
        "memory": options["-m"],
        "environment": dict(os.environ),
        "session": os.getsid(0) == os.getpid(),
    }
    print("started " + json.dumps(started), flush=True)
    if mode == "panic":
        print("Kernel panic - not syncing", flush=True)
        return 0
    if mode == "silent":
        time.sleep(1000)
    chardev = dict(part.split("=", 1) for part in options["-chardev"].split(",") if "=" in part)
    guest = Guest()
    monitor = Monitor(socket.socket(fileno=int(chardev["fd"])), guest)
    monitor.set_up()
    guest.offer_buffers(4)
    monitor.kick(0)
    driver = Driver(monitor)
    driver.connect(9000)
    driver.data(9000, b"\xb7")
    assert driver.next(9000).data == b"\xb7"
    driver.connect(9001)
    driver.connect(7000)
    driver.data(9001, b"\x00\x00\x00\x0cwho are you?")
    print("module: " + driver.next(9001).data.decode(), flush=True)
    while (packet := driver.next(7000)).operation == DATA:
        driver.data(7000, packet.data.upper())
    assert packet.operation == SHUTDOWN
    print("the enclave ended", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
