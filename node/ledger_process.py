"""Reads a node's ledger in a process of its own, for whoever was given a directory by somebody else.

Why: LMDB believes its file. One that was cut short, or whose pages point elsewhere, ends the process that reads it (SIGBUS, a failed
assertion), and no check before can tell. Here that is a child; what its end means is said by a typed error, and the reader goes on.
Law: what the child sends is bytes of a ledger that nobody has verified yet, so nothing in it is believed but that it is short enough.
Not here: what a ledger is (`node.ledger_files`), and whether it is true (`ledger.audit`).
"""

import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ledgerd.ledger.entry import ENTRY_SIZE_BYTES_MAX, HEADER_SIZE_BYTES
from ledgerd.ledger.errors import ConfigurationError, IntegrityError

# One message of the child's: kind, number, bytes that follow.
_HEAD: Final = struct.Struct(">BQI")
_LAST, _COMMITTED, _ENTRY, _MISUSE, _DAMAGED, _END = range(1, 7)
_BYTES_MAX: Final = ENTRY_SIZE_BYTES_MAX + HEADER_SIZE_BYTES
_NO_ENTRIES: Final = (1, 0)  # first and last: only how far the ledger goes
_BUFFER_BYTES: Final = 1 << 20
_REASON_CHARACTERS: Final = 300
_PATIENCE_S: Final = 10.0  # for a child that nobody listens to any more; it ends at its next write


def look(directory: Path) -> tuple[int, int]:
    """Seqnos of the last entry, and of the last that the node knew to be committed; 0 for none.

    Raises: ConfigurationError: There is no ledger, or of another format. IntegrityError: Its file is damaged.
    """
    told = {kind: number for kind, number, _ in _messages(directory, *_NO_ENTRIES)}
    return told.get(_LAST, 0), told.get(_COMMITTED, 0)


def entries(directory: Path, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Entries with their seqnos, ascending, from one consistent state; gaps are the reader's to find.

    Raises: As `look`; entries that come before a damage are given first.
    """
    for kind, number, data in _messages(directory, first, last):
        if kind == _ENTRY:
            yield number, data


def _messages(directory: Path, first: int, last: int) -> Iterator[tuple[int, int, bytes]]:
    # -P: no module of the working directory's comes before ours.
    command = [sys.executable, "-P", "-m", __name__, str(directory), str(first), str(last)]
    child = subprocess.Popen(  # noqa: S603 (this program)
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=_BUFFER_BYTES
    )
    assert child.stdout is not None, "it is a pipe"
    seqno = 0
    try:
        while True:
            kind, number, data = _read(child.stdout)
            if kind == _END:
                return
            if kind == _MISUSE:
                raise ConfigurationError(data.decode(errors="replace"))
            if kind == _DAMAGED:
                raise IntegrityError(f"after entry {seqno}: {data.decode(errors='replace')}")
            if kind == _ENTRY:
                seqno = number
            yield kind, number, data
    except EOFError:
        status = _end(child)
        ended = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise IntegrityError(
            f"after entry {seqno}: the ledger in {directory} is damaged: LMDB ended the process that read it ({ended}); copy it again "
            "while the node does not run, or take another node's"
        ) from None
    finally:
        _end(child)


def _end(child: "subprocess.Popen[bytes]") -> int:
    """Listen no more, and wait for its end. Not killed at once: LMDB keeps a place in the node's lock file for a reader until that leaves.

    Returns: Its status; minus the signal that ended it.
    """
    assert child.stdout is not None, "it is a pipe"
    child.stdout.close()
    try:
        return child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _read(stream: IO[bytes]) -> tuple[int, int, bytes]:
    """One message. Raises: EOFError: There is none, or not all of it; or it is none of ours, since the child has lost its way."""
    head = stream.read(_HEAD.size)
    if len(head) != _HEAD.size:
        raise EOFError
    kind, number, size = _HEAD.unpack(head)
    if not _LAST <= kind <= _END or size > _BYTES_MAX:
        raise EOFError
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return kind, number, data


def _serve(directory: Path, first: int, last: int, stream: IO[bytes]) -> None:
    """The child: send what `_messages` receives."""
    from ledgerd.node.ledger_files import LedgerReader  # noqa: PLC0415 (loads lmdb)

    def send(kind: int, number: int = 0, data: bytes = b"") -> None:
        stream.write(_HEAD.pack(kind, number, len(data)))
        stream.write(data)

    try:
        with LedgerReader(directory) as reader:
            if (first, last) == _NO_ENTRIES:
                send(_COMMITTED, reader.committed_seqno())  # asked first: what is committed then is there when the last is asked for
                send(_LAST, reader.last_seqno())
            else:
                for seqno, data in reader.entries(first, last):
                    if len(data) > _BYTES_MAX:
                        raise IntegrityError(f"entry {seqno} would have {len(data)} bytes")
                    send(_ENTRY, seqno, data)
        send(_END)
    except BrokenPipeError:
        raise
    except ConfigurationError as error:
        send(_MISUSE, data=str(error).encode())
    except IntegrityError as error:
        send(_DAMAGED, data=str(error).encode())
    except Exception as error:  # of a hostile file, whose values may be anything
        send(_DAMAGED, data=f"the ledger cannot be read: {type(error).__name__}: {str(error)[:_REASON_CHARACTERS]}".encode())
    stream.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold the ledger
    try:
        _serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.stdout.buffer)
    except BrokenPipeError:
        sys.stderr.close()
