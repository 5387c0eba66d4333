"""The filter of system calls as a program, run here by an interpreter of the few instructions that it uses."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.runtime import sandbox

ALLOW, KILL = 0x7FFF0000, 0x80000000
X86, ARM = (sandbox._NUMBERS[name] for name in ("x86_64", "aarch64"))


def decide(program: bytes, number: int, architecture: int, arguments: tuple[int, ...]) -> int:
    """What the kernel would do with a call: its classic BPF, as far as it is used here."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments)
    lines: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x45:
            at += yes if accumulator & value else no
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("table", [X86, ARM], ids=["x86_64", "aarch64"])
@settings(deadline=None)
@given(number=st.integers(0, 600), protection=st.integers(0, 7))
def test_a_call_is_allowed_if_it_is_named_and_makes_no_code(
    table: tuple[int, tuple[int, ...], dict[str, int]], number: int, protection: int
) -> None:
    architecture, without_execution, allowed = table
    program = sandbox.assemble(*table)
    wanted = number in allowed.values() or (number in without_execution and not protection & 4)
    assert decide(program, number, architecture, (0, 0, protection, 0, 0, 0)) == (ALLOW if wanted else KILL)


def test_calls_of_another_architecture_are_not() -> None:
    program = sandbox.assemble(*X86)
    assert decide(program, 0, X86[0], (0,) * 6) == ALLOW
    assert decide(program, 0, ARM[0], (0,) * 6) == KILL
    assert decide(program, 0, 0x40000003, (0,) * 6) == KILL  # i386, whose numbers mean other calls
    assert decide(program, 0x40000000, X86[0], (0,) * 6) == KILL  # x32


def test_nothing_that_reaches_out_is_on_a_list() -> None:
    reaching = (
        "open openat socket connect bind clone clone3 fork vfork execve kill tgkill ptrace process_vm_readv ioctl prctl seccomp setuid"
    )
    for _, _, allowed in (X86, ARM):
        assert not set(reaching.split()) & allowed.keys()
    assert X86[2].keys() == ARM[2].keys()
