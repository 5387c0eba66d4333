"""What a script has given, taken apart or refused in its own language; and where it is run.

Values come as JSON has them, with bytes for ArrayBuffers; null, undefined and what is no value at all come as None.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

PEM_LENGTH_MAX: Final = 64 << 10  # of one key; one of 8,192 bits takes 7 KB
KEY_BYTES_MAX: Final = 64 << 10  # that are wrapped: wrapping makes six passes over them, in an interpreted loop
BUNDLE_LENGTH_MAX: Final = 1 << 20  # of certificates
_REASON_LENGTH_MAX: Final = 200  # of the library's words


class Kind(Enum):
    """Which of the language's errors a script is thrown."""

    ERROR = "Error"  # what was given cannot be read, or does not fit
    TYPE = "TypeError"  # called wrongly
    RANGE = "RangeError"  # an algorithm, a curve or a size that there is not


class RefusalError(Exception):
    """A call is refused: what, why, and the error's kind."""

    def __init__(self, text: str, kind: Kind = Kind.ERROR) -> None:
        super().__init__(text)
        self.kind = kind


class Surroundings(NamedTuple):
    """Where a script is run.

    Attributes:
        time_ms: What its clock says, since 1970; 0 if it has none, as a decision.
        is_decision: Its chance is fixed; nothing may be drawn for it.
    """

    time_ms: int
    is_decision: bool

    def must_draw(self, what: str) -> None:
        """Say that random numbers are needed now. Raises: RefusalError: It is a decision."""
        if self.is_decision:
            raise RefusalError(f"{what} draws random numbers; a decision must come out the same each time it is made", Kind.TYPE)


Function: TypeAlias = Callable[..., Any]
"""Of where it is called, then what the script has given."""


def reason(error: BaseException) -> str:
    """The library's words, for a script's author."""
    return (str(error) or type(error).__name__).partition("\n")[0][:_REASON_LENGTH_MAX]


def text(value: Any, what: str, length_max: int = PEM_LENGTH_MAX) -> str:
    """A string."""
    if type(value) is not str:
        raise RefusalError(f"{what} must be a string", Kind.TYPE)
    if len(value) > length_max:
        raise RefusalError(f"{what} has {len(value)} characters; at most {length_max} are read", Kind.RANGE)
    return value


def octets(value: Any, what: str, length_max: int | None = None) -> bytes:
    """The bytes of an ArrayBuffer."""
    if type(value) is not bytes:
        raise RefusalError(f"{what} must be an ArrayBuffer", Kind.TYPE)
    if length_max is not None and len(value) > length_max:
        raise RefusalError(f"{what} has {len(value)} bytes; at most {length_max} are taken", Kind.RANGE)
    return value


def whole(value: Any, what: str) -> int:
    """A whole number."""
    if type(value) is not int:
        raise RefusalError(f"{what} must be a whole number", Kind.TYPE)
    return value


def members(value: Any, what: str) -> dict[str, Any]:
    """An object."""
    if type(value) is not dict:
        raise RefusalError(f"{what} must be an object", Kind.TYPE)
    return value


def utf8(value: str, what: str) -> bytes:
    """A string as UTF-8."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise RefusalError(f"{what} has half of a surrogate pair, which has no bytes", Kind.TYPE) from None
