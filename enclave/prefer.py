"""The `prefer` header, RFC 7240: when a client wants its answer, and what with it.

Not here: holding answers back (`enclave.answers`).
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

WAIT_SECONDS_MAX: Final = 3600  # nobody keeps a connection longer; more is taken as this

# One preference with its value; parameters after ";" are parsed over and ignored. RFC 7240 section 2, quoted strings as in RFC 9110.
_WORD: Final = r'(?:[!#$%&\'*+.^_`|~0-9A-Za-z-]+|"(?:[^"\\]|\\.)*")'
_PREFERENCE: Final = re.compile(
    rf"[ \t]*({_WORD})(?:[ \t]*=[ \t]*({_WORD})?)?((?:[ \t]*;[^,\"]*(?:\"(?:[^\"\\]|\\.)*\"[^,\"]*)*)*)[ \t]*(?:,|$)"
)


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
    preferences: dict[str, str] = {}
    position = 0
    while position < len(value):
        match = _PREFERENCE.match(value, position)
        if match is None:  # skip to the next comma
            position = value.find(",", position) + 1
            if position == 0:
                break
            continue
        preferences.setdefault(match[1].lower(), _unquote(match[2] or ""))
        position = match.end()
    receipt = preferences.get("receipt") == ""
    wait = preferences.get("wait", "")
    seconds = min(int(wait[:9]), WAIT_SECONDS_MAX) if wait.isascii() and wait.isdigit() else None
    return Prefer(receipt or preferences.get("committed") == "", receipt, seconds)


def _unquote(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word
