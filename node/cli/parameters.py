"""Types of options and arguments that several commands share: what does not fit them is misuse, exit status 2."""

import re
from pathlib import Path
from typing import Any, Final

import click

from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
EPOCH_MS_MIN: Final = 10**11
EPOCH_MS_DIGITS_MAX: Final = 14  # year 5138
FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)
is_id: Final = re.compile(r"[0-9a-f]{64}").fullmatch  # of a member, user, node or proposal
PREFIX_MIN: Final = 8  # digits of an id, where it may be shortened
is_prefix: Final = re.compile(rf"[0-9a-f]{{{PREFIX_MIN},64}}").fullmatch


class TransactionIdType(click.ParamType[TransactionId]):
    """`VIEW.SEQNO`."""

    name = "view.seqno"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TransactionId:
        """Read one."""
        if isinstance(value, TransactionId):
            return value
        try:
            return parse_transaction_id(value)
        except FormatError as error:
            self.fail(str(error), param, ctx)


class HexType(click.ParamType[bytes]):
    """Bytes in hex.

    Args:
        size: In bytes; None for any, but not none.
    """

    name = "hex"

    def __init__(self, size: int | None) -> None:
        self.size = size

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Read them."""
        if isinstance(value, bytes):
            return value
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = b""
        if self.size is None and not data:
            self.fail(f"{value!r} is not bytes in hex", param, ctx)
        if self.size is not None and len(data) != self.size:
            self.fail(f"{value!r} is not {self.size} bytes in hex ({2 * self.size} characters)", param, ctx)
        return data


class IndexedPcrType(click.ParamType[tuple[int, bytes]]):
    """`N=HEX`: one PCR, index 0 to 31, 48 bytes in hex."""

    name = "n=hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, bytes]:
        """Read one."""
        if isinstance(value, tuple):
            return value
        index, mark, text = value.partition("=")
        if not mark or not index.isdecimal() or not index.isascii() or len(index) > 2 or int(index) > 31:
            self.fail(f"{value!r} is not N=HEX, with N from 0 to 31", param, ctx)
        return int(index), PCR.convert(text, param, ctx)


class EpochMsType(click.ParamType[int]):
    """A time, in milliseconds since 1970. One below `EPOCH_MS_MIN`, before 1973, was probably meant in seconds; whoever uses it says so."""

    name = "epoch_ms"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one."""
        if isinstance(value, int):
            return value
        if not value.isdecimal() or not value.isascii() or len(value) > EPOCH_MS_DIGITS_MAX:
            self.fail(f"{value!r} is not a number of milliseconds since 1970", param, ctx)
        return int(value)


EPOCH_MS: Final = EpochMsType()
TRANSACTION_ID: Final = TransactionIdType()
DIGEST: Final = HexType(32)
PCR: Final = HexType(48)
HEX: Final = HexType(None)
INDEXED_PCR: Final = IndexedPcrType()
