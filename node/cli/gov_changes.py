"""What a proposal asks for and what it would change, in words: tables' records field by field, certificates by whose they are, scripts as
differences of lines.

Pure: values in, lines and JSON out. Everything here comes from whoever proposed it, so nothing is believed, and all of it is bounded.
Not here: asking the service (`cli.gov_diff`), making lines fit for a terminal (`cli.output`).
"""

import base64
import difflib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ledgerd.governance import tables
from ledgerd.node.cli.gov_files import is_shallow

THE_ONE: Final = "(the one record)"
LINES_COMPARED_MAX: Final = 5_000  # of a text; comparing takes the square of it at worst
LINES_SHOWN_MAX: Final = 400  # of one text's differences
TEXT_SHOWN_MAX: Final = 200  # characters of one text in a record; longer ones are told by length and digest
LINE_SHOWN_MAX: Final = 4_000  # characters of one line of anything else: a voter must see all that fits in the head
ITEMS_SHOWN_MAX: Final = 1_000  # of a list
CERTIFICATES_MAX: Final = 20  # of one bundle that are described

_PEM: Final = "-----BEGIN CERTIFICATE-----"
_INDENT: Final = "    "
_ABSENT: Final = object()


class Value(NamedTuple):
    """One side of a change.

    Attributes:
        there: Whether there is a record.
        value: JSON, text, or hex of what is neither; None if it was too large to be told.
        size_bytes, digest: Of its bytes.
    """

    there: bool
    value: Any = None
    size_bytes: int = 0
    digest: str = ""

    @property
    def is_told(self) -> bool:
        """Whether its bytes were told."""
        return self.value is not None or not self.there


class Change(NamedTuple):
    """One record that would change; `key` is its name, as people know it."""

    table: str
    key: str
    before: Value
    after: Value

    @property
    def sign(self) -> str:
        """`+` for a new record, `-` for one that goes, `~` for one that changes."""
        return "~" if self.before.there and self.after.there else "+" if self.after.there else "-"


def read_changes(effects: dict[str, Any]) -> list[Change]:
    """The changes of the service's answer.

    Raises: ValueError, KeyError, TypeError: It is none.
    """
    return [_read(change) for change in effects["changes"]]


def _read(change: dict[str, Any]) -> Change:
    key = base64.b64decode(change["key"])
    return Change(str(change["table"]), _key_name(key), _value(change["before"]), _value(change["after"]))


def _key_name(key: bytes) -> str:
    if key == tables.SINGLETON:
        return THE_ONE
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key.hex()


def _value(told: dict[str, Any] | None) -> Value:
    if told is None:
        return Value(there=False)
    data = base64.b64decode(told["data"]) if "data" in told else None
    value = None if data is None else _decoded(data)
    return Value(there=True, value=value, size_bytes=int(told["sizeBytes"]), digest=str(told["sha256"]))


def _decoded(data: bytes) -> Any:
    """JSON as what it is; other text as text; anything else in hex. Never None, which stands for what was not told."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.hex()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if found is None or not is_shallow(found) else found


# In words.


def lines_of(changes: list[Change], record_lines_max: int | None = None, more: str = "") -> Iterator[str]:
    """All changes, by table.

    Args:
        record_lines_max: Of each record no more lines than these; None for all.
        more: Where the others are.
    """
    table = None
    for change in changes:
        if change.table != table:
            table = change.table
            yield table
        yield f"  {change.sign} {_shortened(change.key)}"
        lines = list(_of_record(change.before, change.after))
        left = 0 if record_lines_max is None else len(lines) - record_lines_max
        if left > 0:
            lines[record_lines_max:] = [f"... {left} more lines: {more}"]
        for line in lines:
            yield f"{_INDENT}{_INDENT}{line}"


def _of_record(before: Value, after: Value) -> Iterator[str]:
    if not (before.is_told and after.is_told):
        for name, side in (("before", before), ("after", after)):
            if side.there:
                yield f"{name}: {side.size_bytes} bytes, SHA-256 {side.digest}; too large to be shown here"
        return
    yield from compared(before.value if before.there else _ABSENT, after.value if after.there else _ABSENT)


def compared(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The differences of two values of JSON, field by field."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            if before.get(name, _ABSENT) != after.get(name, _ABSENT):
                yield from compared(before.get(name, _ABSENT), after.get(name, _ABSENT), _inside(path, name))
        return
    if before is _ABSENT or after is _ABSENT:
        gone = after is _ABSENT
        fields = _fields(before if gone else after, path)
        if fields is not None:
            for name, value in fields:
                yield from compared(value if gone else _ABSENT, _ABSENT if gone else value, name)
            return
    label = f"{path}: " if path else ""
    if _is_long_text(before) or _is_long_text(after):
        yield from _of_texts(_text(before), _text(after), label)
    elif before is _ABSENT:
        yield from (f"{label}{line}" for line in shown(after))
    elif after is _ABSENT:
        yield from (f"{label}{line}, gone" for line in shown(before))
    else:
        old, new = shown(before), shown(after)
        if len(old) == len(new) == 1 and len(old[0]) + len(new[0]) <= TEXT_SHOWN_MAX // 2:
            yield f"{label}{old[0]} -> {new[0]}"
        else:
            yield from (f"{label}was {line}" for line in old)
            yield from (f"{label}now {line}" for line in new)


def _fields(value: Any, path: str) -> list[tuple[str, Any]] | None:
    """What a value holds, with paths; None if it is told as it is."""
    if isinstance(value, dict) and value:
        return [(_inside(path, name), one) for name, one in value.items()]
    if isinstance(value, list) and any(isinstance(one, dict) for one in value) and len(value) <= ITEMS_SHOWN_MAX:
        return [(f"{path}[{number}]", one) for number, one in enumerate(value)]
    return None


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_long_text(value: Any) -> bool:
    return isinstance(value, str) and not _is_pem(value) and value.count("\n") > 1


def _is_pem(value: str) -> bool:
    """A script that has the words in it is none."""
    return value.lstrip().startswith(_PEM)


def _text(value: Any) -> str:
    return "" if value is _ABSENT else value if isinstance(value, str) else json.dumps(value)


def _of_texts(before: str, after: str, label: str) -> Iterator[str]:
    old, new = before.splitlines(), after.splitlines()
    yield f"{label}{len(old)} -> {len(new)} lines, SHA-256 now {sha256(after.encode(errors='replace')).hexdigest()}"
    if max(len(old), len(new)) > LINES_COMPARED_MAX:
        yield "too long to be compared here; -o json has both texts"
        return
    lines = [line for line in difflib.unified_diff(old, new, lineterm="", n=2) if not line.startswith(("---", "+++"))]
    yield from (_shortened(line) for line in lines[:LINES_SHOWN_MAX])
    if len(lines) > LINES_SHOWN_MAX:
        yield f"... {len(lines) - LINES_SHOWN_MAX} more lines; -o json has both texts"


def shown(value: Any) -> list[str]:
    """One value in words, mostly on one line: a certificate by its subject, a long text by its length and digest."""
    if isinstance(value, str):
        if _is_pem(value):
            return certificates(value)
        if len(value) > TEXT_SHOWN_MAX or "\n" in value:
            return [f"text of {value.count(chr(10)) + 1} lines, {len(value)} characters, SHA-256 {_digest(value)}"]
        return [value if value and value.strip() == value else json.dumps(value)]
    return [_shortened(json.dumps(value, ensure_ascii=False))]


def certificates(pem: str) -> list[str]:
    """Whose certificates these are, one line each."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        lines = [
            f"certificate of {one.subject.rfc4514_string() or 'nobody'}, until {one.not_valid_after_utc:%Y-%m-%d}, "
            f"SHA-256 {one.fingerprint(SHA256()).hex()}"
            for one in found[:CERTIFICATES_MAX]
        ]
    except Exception as error:  # the library's list of what it raises for malformed certificates is long
        return [f"a certificate that cannot be read ({type(error).__name__}), SHA-256 of its text {_digest(pem)}"]
    return [*lines, f"and {len(found) - CERTIFICATES_MAX} more"] if len(found) > CERTIFICATES_MAX else lines


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()


def _shortened(line: str) -> str:
    return line if len(line) <= LINE_SHOWN_MAX else f"{line[:LINE_SHOWN_MAX]}... ({len(line)} characters)"


# What a proposal asks for.


def action_lines(proposal: Any) -> Iterator[str]:
    """The actions of a proposal, numbered, with their arguments; whatever form it has."""
    actions = proposal.get("actions") if isinstance(proposal, dict) else None
    if not isinstance(actions, list):
        yield f"  {shown(proposal)[0]}"
        return
    for number, action in enumerate(actions, 1):
        known = isinstance(action, dict) and isinstance(action.get("name"), str)
        yield f"  {number}. {_shortened(action['name'] if known else json.dumps(action))}"
        arguments = action.get("args") if known else None
        for line in _told(arguments, "") if arguments else ():
            yield f"{_INDENT}   {line}"


def _told(value: Any, path: str) -> Iterator[str]:
    """A value, field by field; texts by their length and digest, since the changes have them line by line."""
    fields = _fields(value, path)
    if fields is None:
        yield from (f"{path}: {line}" if path else line for line in shown(value))
    else:
        for name, one in fields:
            yield from _told(one, name)


def deadline_of(proposal: Any) -> str | None:
    """When a proposal says that it ends."""
    seconds = proposal.get("expires_at") if isinstance(proposal, dict) else None
    if type(seconds) is not int or not 0 < seconds < 253_402_300_800:  # before the year 10000
        return None
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


# For programs.


def as_json(change: Change) -> dict[str, Any]:
    """A change, its values decoded."""
    return {
        "table": change.table,
        "key": None if change.key == THE_ONE else change.key,
        "change": {"+": "added", "-": "removed", "~": "changed"}[change.sign],
        "before": _side(change.before),
        "after": _side(change.after),
    }


def _side(value: Value) -> dict[str, Any] | None:
    return {"value": value.value, "size_bytes": value.size_bytes, "sha256": value.digest} if value.there else None
