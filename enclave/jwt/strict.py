"""JSON objects and base64url as strangers send them, read so that no two readers can differ about what they say.

Refused: a name that stands twice, NaN and infinities, half characters, nesting without need; padding, other alphabets, bits that no
encoder would have left. Whoever reads the same text again, be it JavaScript, sees the same value.
"""

import base64
import json
import re
from typing import Any, Final

from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.signature import unique

DEPTH_MAX: Final = 32  # tokens and key sets need four
INTEGER_DIGITS_MAX: Final = 100  # no date and no identifier is longer, and reading digits costs their square

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args: what: What it is, for the message.
    Raises: FormatError: It is none, or not one that all readers read alike.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=_refuse, parse_int=_integer)
        if type(value) is dict and not _is_shallow(value, DEPTH_MAX):
            raise FormatError(f"it has more than {DEPTH_MAX} levels")
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # neither half characters nor a number beyond all bounds
    except FormatError as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None
    except RecursionError:
        raise FormatError(f"{what} is not valid JSON: it has more than {DEPTH_MAX} levels") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{what} is not valid JSON: {error.msg} at position {error.pos}") from None
    except ValueError:
        raise FormatError(f"{what} is not valid JSON: it is not UTF-8, or holds half a character or a number beyond all bounds") from None
    if type(value) is not dict:
        raise FormatError(f"{what} is not an object")
    return value


def _refuse(name: str) -> Any:
    raise FormatError(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > INTEGER_DIGITS_MAX:
        raise FormatError(f"a number has more than {INTEGER_DIGITS_MAX} digits")
    return int(digits)


def _is_shallow(value: Any, most: int) -> bool:
    if type(value) is dict:
        value = list(value.values())
    return type(value) is not list or (most > 0 and all(_is_shallow(item, most - 1) for item in value))


def base64url(text: str, what: str) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), of which every value has one spelling only.

    Raises: FormatError: It is something else.
    """
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise FormatError(f"{what} is not base64url without padding")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise FormatError(f"{what} is not base64url without padding: its last character says more than its bytes")
    return data
