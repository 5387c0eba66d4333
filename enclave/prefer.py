"""The `prefer` header, RFC 7240: when a client wants its answer, and what with it.

Not here: holding answers back (`enclave.answers`).
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

WAIT_SECONDS_MAX: Final = 3600  # nobody keeps a connection longer; more is taken as this
VALUE_LENGTH_MAX: Final = 1024  # a longer header is ignored, as the RFC allows for any preference

# A quoted string (an unclosed one reaches to the end), a separator, or what lies between. Linear in the length, whatever comes.
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?$)|[,;=]|[^,;="]++')
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Prefer(NamedTuple):
    """What the client prefers.

    Attributes:
        committed: Answer when the transaction is committed, not when it is executed. `receipt` implies it.
        receipt: Put the COSE receipt into `x-ledgerd-receipt`.
        wait_seconds: Time limit for waiting, or None.
    """

    committed: bool
    receipt: bool
    wait_seconds: int | None


NO_PREFERENCE: Final = Prefer(False, False, None)


@lru_cache(maxsize=256)  # clients send the same few values; a hostile one can only make itself slower
def parse_prefer(value: str) -> Prefer:
    """Read a `prefer` header value (several headers joined by a comma).

    As the RFC has it: names are case-insensitive, the first of several counts, and what is unknown or malformed is ignored.
    """
    if len(value) > VALUE_LENGTH_MAX:
        return NO_PREFERENCE
    preferences: dict[str, str] = {}
    pieces: list[str] = []
    for piece in (*_PIECE.findall(value), ","):
        if piece == ",":
            name, word = _preference(pieces)
            if name:
                preferences.setdefault(name, word)
            pieces.clear()
        else:
            pieces.append(piece)
    receipt = preferences.get("receipt") == ""
    wait = preferences.get("wait", "")
    seconds = min(int(wait[:9]), WAIT_SECONDS_MAX) if wait.isascii() and wait.isdigit() else None
    return Prefer(receipt or preferences.get("committed") == "", receipt, seconds)


def _preference(pieces: list[str]) -> tuple[str, str]:
    """Name and value of one preference, parameters left out; no name if it is malformed."""
    if ";" in pieces:
        pieces = pieces[: pieces.index(";")]
    words = [word for piece in pieces if (word := piece.strip(" \t"))]
    if not words or _TOKEN.fullmatch(words[0]) is None or words[1:2] not in ([], ["="]) or len(words) > 3:
        return "", ""
    word = words[2] if len(words) == 3 else ""
    if word.startswith('"') and word.endswith('"') and len(word) > 1:
        word = re.sub(r"\\(.)", r"\1", word[1:-1])
    elif word and _TOKEN.fullmatch(word) is None:
        return "", ""
    return words[0].lower(), word
