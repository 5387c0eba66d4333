"""What the simulation knows of every log, told by the logs themselves and kept apart from what the nodes keep beside them.

`Registry` knows every entry that any node ever appended, by name, and which of them are final; a `Shadow` knows one node's log. Both are
moved by an `ObservedLog`, which stands in the place of the node's own. From them `invariants` derives what each node should believe.
Not here: the rules (`invariants`).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final, NamedTuple

from ledgerd.enclave.consensus.log import Log
from ledgerd.ledger.ids import Seqno, View
from support.simulation.copying import fields


class Meaning(NamedTuple):
    """What an entry means for consensus, read from its bytes.

    Attributes:
        signs: It is a signature entry.
        nodes: The configuration from here on, if it makes one.
        removed: Nodes whose removal it records as final.
        rekeys: It announces another ledger secret, which holds from the next entry on.
    """

    signs: bool = False
    nodes: frozenset[str] | None = None
    removed: frozenset[str] = frozenset()
    rekeys: bool = False


PLAIN = Meaning()

# A node whose memory was set back may make a second entry of a name that it has used. Where a log has that one, its view is written with
# this added, once or more.
_TWIN: Final = 1 << 40


def plain(view: int) -> int:
    """The view of an entry, whichever of its name it is."""
    return view & (_TWIN - 1)


Reader = Callable[[bytes, frozenset[str]], Meaning]
"""Reads an entry's meaning; given the configuration before it."""


class Fact(NamedTuple):
    """One entry that exists, or once did. `before`: view of the entry under it, which is 0 for the first."""

    data: bytes
    before: int
    meaning: Meaning
    author: str


class Registry:
    """All logs together.

    Attributes:
        facts: Every entry, by (view, seqno).
        final: Views of the longest committed log that any node has seen, by seqno; `final[0]` is 0.
        settled: View of the primary that made each of them final, by seqno.
        winners: Who was primary, by view.
        votes: For whom votes were given, by view and voter.
        set_back: Ids of the nodes whose memory was set back.
    """

    def __init__(self, reader: Reader) -> None:
        self.read = reader
        self.facts: dict[tuple[int, int], Fact] = {}
        self.final: list[int] = [0]
        self.settled: list[int] = [0]
        self.winners: dict[int, str] = {}
        self.votes: dict[tuple[int, str], set[str]] = {}
        self.set_back: set[str] = set()

    def lineage(self, view: int, seqno: int) -> list[int]:
        """Views of the log that ends in this entry, by seqno."""
        views = [0] * (seqno + 1)
        while seqno:
            views[seqno] = view
            view = self.facts[view, seqno].before
            seqno -= 1
        return views


class Shadow:
    """One node's log as it must be.

    Attributes:
        views: View of each entry, by seqno; `views[0]` is 0.
        signed: Signature entries, ascending; those at or below the commit but for the last are forgotten.
        configurations: (seqno, nodes) of the active ones, oldest first.
        removals: (seqno, nodes) above the commit; `removed`: all recorded up to it.
        commit: Last committed seqno.
        left, left_signed: Where the configuration stands that removes this node, and the first signature entry over it; 0 for none.
        epochs: First entries of the ledger secrets that the log announces, ascending; 1 is the first.
        changes: Grows with every change.
    """

    __slots__ = (
        "changes",
        "commit",
        "configurations",
        "epochs",
        "left",
        "left_signed",
        "node_id",
        "registry",
        "removals",
        "removed",
        "signed",
        "views",
        "witness",
    )

    def __init__(self, node_id: str, registry: Registry, witness: "Witness") -> None:
        self.node_id = node_id
        self.registry = registry
        self.witness = witness
        self.views: list[int] = [0]
        self.signed: list[int] = []
        self.configurations: list[tuple[int, frozenset[str]]] = []
        self.removals: list[tuple[int, frozenset[str]]] = []
        self.removed: frozenset[str] = frozenset()
        self.commit = 0
        self.left = 0
        self.left_signed = 0
        self.epochs = [1]
        self.changes = 0

    @property
    def last(self) -> int:
        """Last seqno."""
        return len(self.views) - 1

    def extend(self, view: int, entries: Sequence[bytes]) -> None:
        """The node has appended these."""
        views = self.views
        registry = self.registry
        facts = registry.facts
        before = views[-1]
        seqno = len(views)
        for data in entries:
            fact = facts.get((view, seqno))
            if fact is None:
                nodes = self.configurations[-1][1] if self.configurations else frozenset()
                fact = facts[view, seqno] = Fact(data, before, registry.read(data, nodes), self.node_id)
                self.witness.authored(self, view, seqno)
                before = view
            elif fact.before != before or fact.data != data:
                before = self._twin(view, seqno, before, data)
            else:
                before = view
            views.append(before)
            meaning = facts[before, seqno].meaning if before != view else fact.meaning
            if meaning is not PLAIN:
                self._means(seqno, meaning)
            seqno += 1
        self.changes += 1
        self.witness.extended(self, view, len(entries))

    def _twin(self, view: int, seqno: int, before: int, data: bytes) -> int:
        """Another entry of this name: how its view is written.

        Who was set back may make one. Anybody may get an entry of one of its two logs on top of the other, as long as no signature over
        what is beneath tells.
        """
        facts, registry = self.registry.facts, self.registry
        meaning = facts[view, seqno].meaning
        is_known = False
        twin = view
        while (fact := facts.get((twin, seqno))) is not None:
            if fact.data == data:
                if fact.before == before:
                    return twin
                is_known, meaning = True, fact.meaning
            twin += _TWIN
        if self.node_id in registry.set_back:
            nodes = self.configurations[-1][1] if self.configurations else frozenset()
            meaning = registry.read(data, nodes)
        elif not registry.set_back or not is_known or meaning.signs:
            self.witness.differs(self, view, seqno)
        facts[twin, seqno] = Fact(data, before, meaning, self.node_id)
        if not is_known:
            self.witness.authored(self, view, seqno)
        return twin

    def _means(self, seqno: int, meaning: Meaning) -> None:
        if meaning.nodes is not None:
            known = any(self.node_id in nodes for _, nodes in self.configurations)
            self.configurations.append((seqno, meaning.nodes))
            if known and self.node_id not in meaning.nodes and not self.left:
                self.left = seqno
        if meaning.removed:
            self.removals.append((seqno, meaning.removed))
        if meaning.rekeys:
            self.epochs.append(seqno + 1)
        if meaning.signs:
            self.signed.append(seqno)
            if self.left and not self.left_signed:
                self.left_signed = seqno

    def truncate(self, to: int) -> None:
        """The node has forgotten everything above `to`."""
        self.witness.truncating(self, to)
        del self.views[to + 1 :]
        while self.signed and self.signed[-1] > to:
            del self.signed[-1]
        while self.configurations and self.configurations[-1][0] > to:
            del self.configurations[-1]
        while self.removals and self.removals[-1][0] > to:
            del self.removals[-1]
        while self.epochs[-1] > to + 1:
            del self.epochs[-1]
        if self.left > to:
            self.left = 0
        if self.left_signed > to:
            self.left_signed = 0
        self.changes += 1

    def committed(self, to: int) -> None:
        """The node says that everything up to `to` is final."""
        self.witness.committing(self, to)
        self.commit = to
        self.changes += 1
        while len(self.signed) > 1 and self.signed[1] <= to:
            del self.signed[0]
        while len(self.configurations) > 1 and self.configurations[1][0] <= to:
            del self.configurations[0]
        while self.removals and self.removals[0][0] <= to:
            self.removed |= self.removals.pop(0)[1]


class Witness:
    """Told of what happens to logs, as it happens; does nothing of itself."""

    def authored(self, shadow: Shadow, view: int, seqno: int) -> None:
        """This node is the first to have this entry."""

    def differs(self, shadow: Shadow, view: int, seqno: int) -> None:
        """This node's entry of this name is not the one that others have, or stands on another one."""

    def extended(self, shadow: Shadow, view: int, count: int) -> None:
        """So many entries of a view were appended."""

    def truncating(self, shadow: Shadow, to: int) -> None:
        """Entries above `to` are about to go."""

    def committing(self, shadow: Shadow, to: int) -> None:
        """Entries up to `to` are about to be final; `shadow.commit` is still the old one."""


class ObservedLog(Log):
    """A log that tells its shadow; a node's own stands in its place."""

    __slots__ = ("_shadow",)

    def __init__(self, shadow: Shadow) -> None:
        super().__init__()
        self._shadow = shadow

    def __deepcopy__(self, memo: dict[int, Any]) -> "ObservedLog":
        """Hash states can be copied by their own method only; they and entries are never changed, so lists of them are enough."""
        copied = ObservedLog(deepcopy(self._shadow, memo))
        for name in set(fields(self)) - {"_shadow"}:
            value = getattr(self, name)
            setattr(copied, name, list(value) if isinstance(value, list) else value)
        return copied

    def extend(self, view: View, data: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        super().extend(view, data, leaves)
        self._shadow.extend(view, data)

    def truncate(self, to: Seqno) -> None:
        self._shadow.truncate(to)
        super().truncate(to)

    def commit(self, committed: Seqno) -> None:
        self._shadow.committed(committed)
        super().commit(committed)
