"""What a script worker gives up before it hears of any script, for good: descriptors, users' rights, resources, system calls.

A worker holds nothing worth having, and after this it can do nothing but compute, answer on its one socket, and end. The filter of system
calls kills the process at the first that is not on the list, whoever makes it. Where the kernel has no such filter, the rest still
holds: no descriptor but the socket, no environment, nobody's rights, no new process, no file larger than nothing.
Law: called once, with one thread. Not here: who starts a worker, and kills it (`enclave.runtime.script_pool`).
Source: Linux, Documentation/userspace-api/seccomp_filter.rst; the numbers of system calls are those of asm-generic and x86's table.
"""

import ctypes
import os
import platform
import resource
import struct
from typing import Final

SOCKET: Final = 0
MEMORY_BYTES_MAX: Final = 1 << 30  # of address space: an interpreter (23 MiB), a heap (100 MiB by default), sources and what is on the way
OPEN_FILES_MAX: Final = 1  # and that one is open

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SIGKILL: Final = 9
_NOBODY: Final = 65534
_MODE_FILTER: Final = 2
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_PROT_EXEC: Final = 4

# Reading and writing (there is one descriptor), memory, time, randomness, waiting, ending. No opening, no socket, no process, no signal to
# others. `mmap` and `mprotect` are here too, but for pages that can be executed: the engine makes no code.
_NUMBERS: Final = {
    "x86_64": (
        0xC000003E,
        (9, 10),  # mmap, mprotect
        {
            "read": 0,
            "write": 1,
            "close": 3,
            "munmap": 11,
            "brk": 12,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "sched_yield": 24,
            "mremap": 25,
            "madvise": 28,
            "getpid": 39,
            "sendto": 44,
            "recvfrom": 45,
            "exit": 60,
            "gettimeofday": 96,
            "sigaltstack": 131,
            "futex": 202,
            "restart_syscall": 219,
            "clock_gettime": 228,
            "exit_group": 231,
            "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        (222, 226),
        {
            "read": 63,
            "write": 64,
            "close": 57,
            "munmap": 215,
            "brk": 214,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "sched_yield": 124,
            "mremap": 216,
            "madvise": 233,
            "getpid": 172,
            "sendto": 206,
            "recvfrom": 207,
            "exit": 93,
            "gettimeofday": 169,
            "sigaltstack": 132,
            "futex": 98,
            "restart_syscall": 128,
            "clock_gettime": 113,
            "exit_group": 94,
            "getrandom": 278,
        },
    ),
}

# Classic BPF: an instruction is a code, two jumps, a number.
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_THIRD_ARGUMENT = 0, 4, 16 + 2 * 8  # in struct seccomp_data; the low half of the argument


class SandboxError(Exception):
    """Something could not be given up; the worker must not run scripts."""


def enter(memory_bytes: int = MEMORY_BYTES_MAX) -> list[str]:
    """Give it all up, but for the socket.

    Returns: What holds from now on, as words.
    Raises: SandboxError: A step fails that never should.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    words = ["own-process", "no-descriptors", "empty-environment"]
    os.closerange(SOCKET + 1, 1 << 12)
    os.environ.clear()
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_PDEATHSIG, _SIGKILL)):
        if libc.prctl(option, value, 0, 0, 0):
            raise SandboxError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
    words.append("no-new-privileges")
    try:
        _limit(memory_bytes)
        words.append("resource-limits")
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            words.append("nobody")
            # a change of user undoes these two
            libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    except (OSError, ValueError) as error:
        raise SandboxError(f"{type(error).__name__}: {error}") from None
    if _filter(libc):
        words.append("system-call-filter")
    return words


def _limit(memory_bytes: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)  # noqa: PLW2901
        resource.setrlimit(kind, (value, value))


def _filter(libc: ctypes.CDLL) -> bool:
    """Allow the calls on the list and no others; False where the kernel, or this list, does not know how."""
    known = _NUMBERS.get(platform.machine())
    if known is None:
        return False
    program = assemble(*known)
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_void_p(ctypes.addressof(head)), 0, 0) == 0)


def assemble(architecture: int, without_execution: tuple[int, ...], allowed: dict[str, int]) -> bytes:
    """The filter as a program: another architecture's calls kill, so do calls that are not named, and executable pages."""
    lines = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    for number in sorted(allowed.values()):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in without_execution:
        lines += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _AT_THIRD_ARGUMENT),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _KILL),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _KILL))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
