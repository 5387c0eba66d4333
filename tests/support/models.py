"""Which sizes of the specification are run, and which bugs it must find.

Pure. A size is a file `tests/model/NAME.cfg`, whose first line says what it is. A bug is one rule of the protocol broken on purpose: a
value of the constant `Bug`, at a size where breaking it shows. A model that finds no bug says nothing. Not here: TLC (`support.tlc`).
"""

import re
from typing import Final, NamedTuple

from support.tlc import MODEL

MODULE: Final = "MC"


class Bug(NamedTuple):
    """A rule broken on purpose.

    Attributes:
        name: The value of the constant `Bug`.
        size: The .cfg to start from.
        finds: The property that TLC must report.
        what: What is done wrong.
        changes: Constants that differ from the .cfg's.
        only: The properties that are checked, where a nearer one would hide the harm; empty for all of the .cfg's.
    """

    name: str
    size: str
    finds: str
    what: str
    changes: dict[str, str]
    only: tuple[str, ...] = ()


_SAFE: Final = ("CommitSafety", "LeaderCompleteness")
_FIVE: Final = {
    "Server": "{n1, n2, n3, n4, n5}",
    "Targets": "{{n1, n4, n5}}",
    "Reconfigs": "1",
    "Datas": "0",
    "Signs": "1",
    "LastView": "2",
}
_JOIN: Final = {"LastView": "2"}
_ADD_AND_REMOVE: Final = {"Targets": "{{n1, n2}, {n1}}", "Reconfigs": "2"}

BUGS: Final = (
    Bug("union", "three", "LeaderCompleteness", "a majority of all configurations' nodes together is a quorum", _FIVE, _SAFE),
    Bug("newest", "three", "Durable", "a majority of the newest configuration is a quorum", {**_FIVE, "Targets": "{{n1}}"}),
    Bug("earlier view", "three", "NeverCommitEarlierViews", "an earlier view's entries are committed by counting", {"LastView": "3"}),
    Bug("whole log", "three", "AcksAreTrue", "acknowledged is more than the primary is known to have", {"LastView": "3", "Datas": "0"}),
    Bug("memory", "disk", "Durable", "acknowledged is what the disk does not have yet", {}),
    Bug("own memory", "disk", "Durable", "a primary counts itself before its own disk has it", {}),
    Bug("vote", "three", "LeaderCompleteness", "votes go to logs that lack what the voter has", {}),
    Bug("two votes", "three", "ElectionSafety", "votes are forgotten", {}),
    Bug("unsigned", "three", "CommitSafety", "commit stops at entries that no signature covers", {}, ("CommitSafety",)),
    Bug("truncate early", "three", "Durable", "what lies beyond a message is given up, conflict or not", {}),
    Bug("own suffix", "three", "CommitSafety", "a backup commits its own entries beyond what it shares with the primary", {}),
    Bug("early", "quick", "SomebodyCanLead", "a removed node goes as soon as its removal is final, not when that is on record", {}),
    Bug("removed never stand", "quick", "SomebodyCanLead", "a node that leaves does not stand any more", {}),
    Bug("unsigned member", "join", "LeadersAreKnown", "a node stands for the sake of a configuration that nobody has signed", _JOIN),
    Bug("ordered stand", "join", "LeadersAreKnown", "so does one that unsigned entries added and removed", {**_JOIN, **_ADD_AND_REMOVE}),
    Bug("hash", "setback", "CommitSafety", "a primary does not compare the digests of acknowledgements", {}),
    Bug("echo", "setback", "NobodyForgets", "a backup does not compare what the primary remembers of it", {}),
    Bug("names", "setback", "CommitSafety", "entries of the same name are taken for the same entry", {}),
    Bug("vote for anything", "setback", "CommitSafety", "a vote counts for whatever its asker has by then", {}),
)


def sizes() -> dict[str, str]:
    """Every size, and what it is."""
    return {path.stem: path.read_text().split("\n", 1)[0].lstrip("\\* ") for path in sorted(MODEL.glob("*.cfg"))}


def configuration(size: str, bug: Bug | None = None) -> str:
    """The text of a size's .cfg; with a bug, with that rule broken.

    Raises: KeyError: The .cfg does not have a constant that the bug changes.
    """
    text = (MODEL / f"{size}.cfg").read_text()
    if bug is None:
        return text
    for name, value in {**bug.changes, "Bug": f'"{bug.name}"'}.items():
        text, count = re.subn(rf"^    {name} = .*$", f"    {name} = {value}", text, flags=re.MULTILINE)
        if count != 1:
            raise KeyError(f"{size}.cfg has {count} constants named {name}")
    if bug.only:
        text = text[: text.index("INVARIANTS")] + "INVARIANTS\n" + "".join(f"    {name}\n" for name in bug.only)
    return text
