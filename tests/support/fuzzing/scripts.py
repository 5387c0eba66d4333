"""What a script worker says to its enclave: frames of messages, from a process that may be anybody's."""

from typing import Final

from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.jobs import BYTES, JSON, End
from support.fuzzing.laws import BrokenLaw, Maker, Target

_SAID: Final = (
    [[messages.HELLO, ["seccomp"]]],
    [[messages.SET, "public:m", b"k", b"v"], [messages.DELETE, "m", b"k"], [messages.CLEAR, "m"], [messages.GET, "m", b""]],
    [[messages.HAS, "m", b"k"], [messages.VERSION, "m", b"k"], [messages.SIZE, "m"], [messages.PAGE, "m", None, b"l", 9]],
    [[messages.CALL, "node.x", [1, 2.5, "a", b"b", None, True, [1, {"a": [b""]}]]], [messages.LOG, "info", "text"]],
    [[messages.DONE, JSON, b"{}"]],
    [[messages.RESPONSE, 200, [["a", "b"]], BYTES, b"body"]],
    [[messages.FAILED, End.EXCEPTION.value, "Error: no", "at vote"]],
)


def _script_messages() -> Target:
    """The body of one frame."""

    def judge(data: bytes) -> bool:
        try:
            found = messages.read(data)
        except messages.WorkerError:
            return False
        again = messages.frame(found)[4:]
        if repr(messages.read(again)) != repr(found):
            raise BrokenLaw("what was read is not read again as it was")
        return True

    seeds = [messages.frame([*said])[4:] for said in _SAID]
    bombs = [
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\x93\x13\xa1m" + b"\x91" * 2_000 + b"\x01",
        b"\xdc\xff\xff" + b"\x92\x12\xa1m" * 65_535,
        b"\x91\x94\x0b\xa1m\xc6\x7f\xff\xff\xff",
        b"\x91\x93\x13\xa1m\x91" + b"\x81\xa1a" * 500 + b"\xc0",
    ]
    pieces = (b"\xc0", b"\xc4\x00", b"\xa1m", b"\xd9\xff", b"\xc7\x00\x00", b"\xcb" + b"\x7f" * 8)
    tokens = [*(bytes([0x90 + size]) for size in range(6)), *pieces]
    return Target("script-messages", seeds, judge, tokens=tokens, bombs=bombs)


MAKERS: Final[dict[str, Maker]] = {"script-messages": _script_messages}
