"""Tables of TOML, taken out key by key: every problem is noted with its key and what to write instead, and so is what nobody took.

Files named there are read here, relative to the TOML file. Not here: which keys there are (`node.config`).
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError

PORT_MAX: Final = 65535
_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>[0-9]{1,5})")
_PEM: Final = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP endpoint. Port 0, where allowed, lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Section:
    """One TOML table: takes values out, collects problems, knows at the end what nobody took."""

    def __init__(self, name: str, values: Any, folder: Path, problems: list[str]) -> None:
        self.values: dict[str, Any] = values if isinstance(values, dict) else {}
        self.problems = problems
        self._name = name
        self._folder = folder
        self._taken: set[str] = set()
        if not isinstance(values, dict):
            self.problems.append(f"[{name}] must be a table")

    def problem(self, key: str, text: str, key_is_section: bool = False) -> None:
        """Note what is wrong with a key."""
        where = f"[{key}]" if key_is_section else (f"{self._name}.{key}" if self._name else key)
        self.problems.append(f"{where}: {text}")

    def refuse_unknown(self) -> None:
        """Whatever nobody asked for is a mistake, most often of spelling."""
        for key in self.values.keys() - self._taken:
            self.problem(key, f"unknown; known here: {', '.join(sorted(self._taken))}")

    def has(self, key: str) -> bool:
        """Whether an optional key is given; it is known from then on."""
        self._taken.add(key)
        return key in self.values

    def _take(self, key: str, kind: type, advice: str, required: bool) -> Any:
        self._taken.add(key)
        value = self.values.get(key)
        if value is None:
            if required:
                self.problem(key, f"missing; {advice}")
            return None
        if type(value) is not kind:
            self.problem(key, f"is {type(value).__name__}; {advice}")
            return None
        return value

    def section(self, key: str) -> "Section":
        """A table; empty if not there."""
        self._taken.add(key)
        return Section(f"{self._name}.{key}" if self._name else key, self.values.get(key, {}), self._folder, self.problems)

    def text(self, key: str, default: str = "", required: bool = False) -> str:
        """A string."""
        value = self._take(key, str, "give a text in quotes", required)
        return default if value is None else str(value)

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of strings."""
        value = self._take(key, list, "give a list of texts", False)
        if value is None:
            return default
        if not all(type(item) is str for item in value):
            self.problem(key, "give a list of texts")
            return default
        return tuple(value)

    def truth(self, key: str) -> bool:
        """true or false; false unless given."""
        return bool(self._take(key, bool, "give true or false", False))

    def anything(self, key: str) -> Any:
        """Whatever stands there, if JSON has it, too."""
        self._taken.add(key)
        value = self.values.get(key)
        try:
            json.dumps(value)
        except TypeError:
            self.problem(key, "the ledger keeps it as JSON, which has neither dates nor times; write them as strings")
        return value

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """An integer within bounds."""
        value = self._take(key, int, f"give a whole number from {least} to {most}", False)
        if value is None:
            return default
        if not least <= value <= most:
            self.problem(key, f"{value} is out of bounds; give a whole number from {least} to {most}")
        return int(value)

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of some words."""
        value = self.text(key, default)
        if value not in choices:
            self.problem(key, f"{value!r} is none of {', '.join(choices)}")
        return value

    def address(self, key: str, required: bool = False) -> Address:
        """`host:port`."""
        value = self._take(key, str, 'give "host:port"', required)
        if value is None:
            return Address("", 0)
        try:
            return parse_address(value)
        except ConfigurationError as error:
            self.problem(key, str(error))
            return Address("", 0)

    def path(self, key: str, required: bool = False) -> Path | None:
        """A path, relative to the file's folder."""
        value = self._take(key, str, "give a path in quotes", required)
        return None if value is None else self._folder / value

    def file(self, key: str, required: bool = False) -> str:
        """The text of a file that is named."""
        path = self.path(key, required)
        return "" if path is None else self._read(key, path)

    def _read(self, key: str, path: Path) -> str:
        try:
            return path.read_text()
        except (OSError, ValueError) as error:  # a path may hold what no path can
            self.problem(key, f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text'}")
            return ""

    def joined(self, key: str) -> str | None:
        """The text of a file that is named, or of several, one after the other; None if the key is not there."""
        if not self.has(key):
            return None
        if isinstance(self.values[key], str):
            return self.file(key)
        return "\n".join(self._read(key, self._folder / name) for name in self.texts(key, ()))

    def pem(self, key: str, required: bool = False) -> str:
        """The text of a PEM file that is named."""
        text = self.file(key, required)
        if text and _PEM not in text:
            self.problem(key, f"{self.values[key]} is not a PEM file")
        return text

    def pems(self, key: str) -> tuple[str, ...]:
        """The texts of PEM files that are named."""
        names = self.texts(key, ())
        texts = [self._read(key, self._folder / name) for name in names]
        for name, text in zip(names, texts, strict=True):
            if text and _PEM not in text:
                self.problem(key, f"{name} is not a PEM file")
        return tuple(texts)

    def tables(self, key: str, read: Callable[["Section"], Any], required: bool = False) -> tuple[Any, ...]:
        """A list of tables, each read by `read`."""
        values = self._take(key, list, f"give one [[{self._name}.{key}]] for each", required)
        found = []
        for number, value in enumerate(values or ()):
            section = Section(f"{self._name}.{key}[{number}]", value, self._folder, self.problems)
            found.append(read(section))
            section.refuse_unknown()
        return tuple(found)


def parse_address(text: str) -> Address:
    """Read `host:port` or `[v6]:port`.

    Raises: ConfigurationError: It is anything else.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > PORT_MAX:
        raise ConfigurationError(f'{text[:100]!r} is no address; give "host:port", port at most {PORT_MAX}, such as "127.0.0.1:8000"')
    return Address(match["six"] or match["host"], int(match["port"]))
