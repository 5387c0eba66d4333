"""What an endpoint's function is going to read, guessed from what it has read before, so that it need not be asked for.

A question costs a way from the worker to the enclave and back, which takes longer than most functions. Functions mostly read a key that the
request names, or the same key every time; where that was so, the value goes with the job (`Job.ahead`).
Law: a guess changes no result. What is read ahead counts as read, so a wrong guess costs a look, at worst a run that need not have been
repeated. Guesses are made anew now and then, from what a few runs read to which nothing was given ahead; others use the old ones meanwhile.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from ledgerd.enclave.endpoints import Context
from ledgerd.ledger.errors import RequestError

GUESSES_MAX: Final = 8
RUNS: Final = 1_000  # after which guesses are made anew
PROBES: Final = 2  # runs of which they are made anew: a key that is always the same is known as that by the second
TRIES: Final = 16  # looks at what was read, until then; keys that are computed in other ways are not worth more
BODY_BYTES_MAX: Final = 4_096  # of a JSON body that is looked into
FIELDS_MAX: Final = 16  # of it
KEYS_MAX: Final = 64  # of one run that are looked at

_PARAMETER: Final = "parameter"
_QUERY: Final = "query"
_BODY: Final = "body"
_CALLER: Final = "caller"
_ALWAYS: Final = "always"  # the same key
_TABLES: Final = "public:ccf."


class Guess(NamedTuple):
    """Where a key comes from.

    Attributes:
        map_name: Its map.
        source: Parameter of the path or of the query, field of the body, the caller's id, or nothing of the request.
        name: Of the parameter or field.
        is_json: The key is the text as JSON writes it, as libraries make it.
        key: For what is always the same.
    """

    map_name: str
    source: str
    name: str = ""
    is_json: bool = False
    key: bytes = b""


class Foresight:
    """The guesses of one endpoint."""

    def __init__(self) -> None:
        self._guesses: list[Guess] = []
        self._fresh: list[Guess] | None = None  # while they are made anew
        self._to_learn = 0  # runs of which they still are
        self._before: dict[str, bytes] = {}  # a key of the last run, by its map
        self._runs = 0
        self._tries = 0

    def keys(self, context: Context) -> tuple[tuple[str, bytes], ...]:
        """Maps and keys that this request's function is going to read, most likely."""
        self._runs += 1
        if self._runs >= RUNS:
            self._runs = self._tries = 0
            self._before.clear()
            self._fresh = []
            self._to_learn = PROBES
        if not self._guesses or (self._fresh is not None and self._runs < PROBES):
            return ()
        fields: dict[str, str] | None = None
        found = []
        for guess in self._guesses:
            if guess.source == _ALWAYS:
                found.append((guess.map_name, guess.key))
                continue
            if guess.source == _PARAMETER:
                text = context.params.get(guess.name)
            elif guess.source == _CALLER:
                text = context.caller.id if context.caller is not None else None
            elif guess.source == _QUERY:
                text = _query(context).get(guess.name)
            else:
                fields = _fields(context) if fields is None else fields
                text = fields.get(guess.name)
            if text is not None:
                found.append((guess.map_name, _key(text, is_json=guess.is_json)))
        return tuple(found)

    def learn(self, context: Context, ahead: Sequence[tuple[str, bytes]], read: Iterable[tuple[str, bytes]]) -> None:
        """Take note of what was read.

        Args: ahead: What `keys` gave. read: Maps and keys, of this and of what was read ahead.
        """
        if self._fresh is not None and not ahead:
            self._to_learn -= 1
            self._take_note(self._fresh, context, ahead, read)
            if not self._to_learn:
                self._guesses, self._fresh = self._fresh, None
        elif len(self._guesses) < GUESSES_MAX and self._tries < TRIES:
            self._take_note(self._guesses, context, ahead, read)

    def _take_note(
        self, guesses: list[Guess], context: Context, ahead: Sequence[tuple[str, bytes]], read: Iterable[tuple[str, bytes]]
    ) -> None:
        missed = [pair for pair in read if pair not in ahead and not pair[0].startswith(_TABLES)]
        if not missed:
            return
        self._tries += 1
        sources = self._sources(context)
        for name, key in missed[:KEYS_MAX]:
            found = sources.get(key)
            if found is not None:
                guess = Guess(name, *found)
            elif self._before.get(name) == key:
                guess = Guess(name, _ALWAYS, key=key)
            else:
                if name in self._before or len(self._before) < GUESSES_MAX:
                    self._before[name] = key
                continue
            if guess not in guesses and len(guesses) < GUESSES_MAX:
                guesses.append(guess)

    @staticmethod
    def _sources(context: Context) -> dict[bytes, tuple[str, str, bool]]:
        """Every key that the request could be seen to name, and how."""
        named = [(_PARAMETER, name, text) for name, text in context.params.items()]
        named += [(_QUERY, name, text) for name, text in _query(context).items()]
        named += [(_BODY, name, text) for name, text in _fields(context).items()]
        if context.caller is not None and context.caller.id:
            named.append((_CALLER, "", context.caller.id))
        made: dict[bytes, tuple[str, str, bool]] = {}
        for source, name, text in named:
            for is_json in (False, True):
                made.setdefault(_key(text, is_json=is_json), (source, name, is_json))
        return made


def _query(context: Context) -> dict[str, str]:
    try:
        return context.query
    except RequestError:
        return {}


def _fields(context: Context) -> dict[str, str]:
    """Texts and whole numbers of the object that the body is, if it is a small one."""
    body = context.request.body
    if not 2 <= len(body) <= BODY_BYTES_MAX or body[:1] != b"{":
        return {}
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return {name: str(value) for name, value in islice(said.items(), FIELDS_MAX) if type(value) in (str, int)}


def _key(text: str, *, is_json: bool) -> bytes:
    return (json.dumps(text, ensure_ascii=False) if is_json else text).encode(errors="replace")
