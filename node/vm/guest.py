#!/usr/bin/python3.11 -ISB
"""The first process of a virtual machine that stands in for AWS's platform; it is `/init` of ramdisk 0, alone but for Python.

Does what the platform's init does, in its order: file systems, modules, the device `/dev/nsm`, the heartbeat to the host, then it enters
`/rootfs` and starts what `cmd` says with the environment that `env` says. When that ends, so does the machine.
`/dev/nsm` is a CUSE device: a process here takes the ioctl as the driver does, and hands requests to the host's simulator by vsock.
Uses nothing but the interpreter, `ctypes` and what is compiled into both: each module more is time at every start.
Sources: the kernel's descriptions of CUSE and of FUSE ioctls (include/uapi/linux/fuse.h), its drivers/misc/nsm.c.
"""

import _socket
import ctypes
import os
import struct

HOST_CID = 3
HEARTBEAT_PORT = 9000
HEARTBEAT = b"\xb7"
NSM_PORT = 9001
MODULES = (
    *("fuse", "cuse", "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
)
REQUEST_BYTES_MAX = 0x1000  # as the driver has them
ANSWER_BYTES_MAX = 0x3000
IOCTL = 0xC0200A00

_FINIT_MODULE = 313  # of x86-64
_REBOOT = 0x01234567  # QEMU is told not to start again, so this ends it
_EINVAL, _ENOSYS, _ENOTTY, _EMSGSIZE, _EIO = 22, 38, 25, 90, 5

_IN = struct.Struct("=IIQQIIIHH")  # length, operation, unique, node, user, group, process, more
_OUT = struct.Struct("=IiQ")  # length, error, unique
_CUSE_INIT_OUT = struct.Struct("=IIIIIIII40x")  # major, minor, -, flags, read and write limits, device's major, minor
_IOCTL_IN = struct.Struct("=QIIQII")  # handle, flags, command, argument, sizes in and out
_IOCTL_OUT = struct.Struct("=iIII")  # result, flags, numbers of vectors in and out
_PAIR = struct.Struct("=QQ")  # address and length
_ARGUMENT = struct.Struct("=QQQQ")  # request's address and length, answer's address and length
_CUSE_INIT, _OPEN, _RELEASE, _FLUSH, _INTERRUPT, _IOCTL = 4096, 14, 18, 25, 36, 39
_UNRESTRICTED = 1
_RETRY = 4
_READ_BYTES = 1 << 16

_ANSWERS = {
    _CUSE_INIT: _CUSE_INIT_OUT.pack(7, 31, 0, _UNRESTRICTED, 4096, 4096, 0, 0) + b"DEVNAME=nsm\0",
    _OPEN: bytes(16),
    _RELEASE: b"",
    _FLUSH: b"",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)


def say(text: str) -> None:
    """One line to the console; this interpreter was started without one."""
    os.write(1, f"init: {text}\n".encode())


def lines(path: str) -> list[str]:
    """The lines of a short file, which is removed."""
    descriptor = os.open(path, os.O_RDONLY)
    text = os.read(descriptor, _READ_BYTES).decode()
    os.close(descriptor)
    os.unlink(path)
    return [line for line in text.split("\n") if line]


def mount(kind: str, where: str) -> None:
    """Mount a file system that has no device."""
    _check(_libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None), where)


def load_modules() -> None:
    """Load the kernel's modules, in an order in which each finds what it needs."""
    for name in MODULES:
        descriptor = os.open(f"/modules/{name}.ko", os.O_RDONLY)
        _check(_libc.syscall(_FINIT_MODULE, descriptor, b"", 0), name)
        os.close(descriptor)


def connect(port: int) -> _socket.socket:
    """A stream to the host."""
    stream = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
    stream.connect((HOST_CID, port))
    return stream


def receive(stream: _socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise OSError(_EIO, "the host closed the stream")
        data += part
    return data


def ask(stream: _socket.socket, request: bytes) -> bytes:
    """One request to the simulator, and its answer."""
    stream.sendall(len(request).to_bytes(4, "big") + request)
    return receive(stream, int.from_bytes(receive(stream, 4), "big"))


def ioctl(stream: _socket.socket, body: bytes) -> bytes | int:
    """Answer one ioctl; an error's number where the driver gives one.

    The kernel asks up to three times: first without data, so we name the argument; then with it, so we name what it points to; then with
    the request too, which is answered.
    """
    _, _, command, argument, size_in, _ = _IOCTL_IN.unpack_from(body)
    if command != IOCTL:
        return _ENOTTY
    vectors = [(argument, _ARGUMENT.size)]
    given = body[_IOCTL_IN.size : _IOCTL_IN.size + size_in]
    if not given:
        return _IOCTL_OUT.pack(0, _RETRY, 1, 0) + _PAIR.pack(*vectors[0])
    request_at, request_size, answer_at, answer_size = _ARGUMENT.unpack_from(given)
    if request_size > REQUEST_BYTES_MAX:
        return _EMSGSIZE
    answer_size = min(answer_size, ANSWER_BYTES_MAX)
    if len(given) == _ARGUMENT.size and request_size:
        pairs = (*vectors, (request_at, request_size), *vectors, (answer_at, answer_size))
        return _IOCTL_OUT.pack(0, _RETRY, 2, 2) + b"".join(_PAIR.pack(*pair) for pair in pairs)
    answer = ask(stream, given[_ARGUMENT.size :])
    if len(answer) > answer_size:
        return _EINVAL
    return _IOCTL_OUT.pack(0, 0, 0, 0) + _ARGUMENT.pack(request_at, request_size, answer_at, len(answer)) + answer


def serve_nsm(ready: int) -> None:
    """Be the device; tell `ready` when it is there."""
    device = os.open("/dev/cuse", os.O_RDWR)
    stream = connect(NSM_PORT)
    while True:
        message = os.read(device, _READ_BYTES)
        _, operation, unique, *_ = _IN.unpack_from(message)
        body = message[_IN.size :]
        if operation == _INTERRUPT:
            continue
        answer = ioctl(stream, body) if operation == _IOCTL else _ANSWERS.get(operation, _ENOSYS)
        error, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
        os.write(device, _OUT.pack(_OUT.size + len(data), error, unique) + data)
        if operation == _CUSE_INIT:
            os.chmod("/dev/nsm", 0o666)  # noqa: S103 (as the driver's device has it)
            os.write(ready, b"1")


def start_nsm() -> int:
    """Start the device's process, and wait for the device; its process id."""
    ready, told = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            serve_nsm(told)
        finally:
            os._exit(1)
    os.close(told)
    if not os.read(ready, 1):
        raise OSError(_EIO, "there is no /dev/nsm")
    os.close(ready)
    return process


def start_enclave(words: list[str], environment: dict[str, str]) -> int:
    """Start what the image holds, in its own root; its process id."""
    os.chdir("/rootfs")
    for kind, where in (("devtmpfs", "dev"), ("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "run"), ("tmpfs", "tmp")):
        mount(kind, where)
    process = os.fork()
    if process == 0:
        try:
            os.chroot(".")
            os.chdir("/")
            os.execve(words[0], words, environment)  # noqa: S606 (no shell is the point)
        except OSError as error:
            say(f"{words[0]} cannot be started: {error}")
        finally:
            os._exit(127)
    return process


def main() -> None:
    """Bring the machine up, and down."""
    mount("devtmpfs", "/dev")
    console = os.open("/dev/console", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(console, number)
    load_modules()
    nsm = start_nsm()
    heartbeat = connect(HEARTBEAT_PORT)
    heartbeat.sendall(HEARTBEAT)
    if receive(heartbeat, 1) != HEARTBEAT:
        raise OSError(_EIO, "the host's heartbeat is another")
    heartbeat.close()
    enclave = start_enclave(lines("/cmd"), dict(line.split("=", 1) for line in lines("/env")))
    while True:
        process, status = os.wait()
        if process == enclave:
            say(f"the enclave ended with status {os.waitstatus_to_exitcode(status)}")
            break
        if process == nsm:
            say("the process of /dev/nsm is gone")
            break
    os.sync()
    _libc.reboot(_REBOOT)


if __name__ == "__main__":
    main()
