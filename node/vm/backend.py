"""Runs one machine's vsock device in a thread, from QEMU's first message until it is gone.

Law: whatever happens here ends this machine only: its sockets are closed, which the host sees as the end of the link.
"""

import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from ledgerd.node.vm.device import Device
from ledgerd.node.vm.errors import GuestError
from ledgerd.node.vm.vhost import Monitor

GUEST_CID: Final = 16  # each machine is alone on its bus, so all may have the same; Nitro's enclaves are often 16 too

log = logging.getLogger("ledgerd.node")


class Backend:
    """One machine's device.

    Args:
        monitor: Socket to QEMU; taken over.
        connect: As `Device` has it; called in the device's thread.
        ended: Called in that thread when all is over.
    """

    def __init__(
        self, monitor: socket.socket, connect: Callable[[int], socket.socket | None], ended: Callable[[], None] = lambda: None
    ) -> None:
        self._epoll = select.epoll()
        self._monitor = Monitor(monitor, GUEST_CID, self._epoll)
        self._device = Device(GUEST_CID, connect, self._epoll)
        self._ended = ended
        self._busy = False  # the device has more to do, without being woken
        self._stop: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="vsock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the device, and its thread. May be called more than once."""
        if self._stop is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            os.close(self._stop)
            self._stop = None

    def _run(self) -> None:
        epoll = self._epoll
        epoll.register(self._monitor, select.EPOLLIN)
        assert self._stop is not None, "it is closed when this thread has ended"
        epoll.register(self._stop, select.EPOLLIN)
        try:
            while self._turn():
                pass
        except GuestError as error:
            log.error("the virtual machine breaks the rules of its device, and is cut off: %s", error)
        except OSError as error:
            log.warning("the virtual machine's monitor is gone: %s", error)
        finally:
            self._device.close()
            self._monitor.close()
            epoll.close()
            self._ended()

    def _turn(self) -> bool:
        for descriptor, events in self._epoll.poll(0 if self._busy else None):
            if descriptor == self._stop:
                return False
            if descriptor == self._monitor.fileno():
                if not self._monitor.handle():
                    return False
                self._device.receive, self._device.transmit = self._monitor.queues
            elif not self._monitor.kicked(descriptor):
                self._device.woken(descriptor, events)
        self._busy = self._device.work()
        self._monitor.ring_back()
        return True
