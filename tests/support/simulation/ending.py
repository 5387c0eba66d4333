"""The end of a run: every fault ends, and the service must go on; then everything that can only be judged afterwards.

Liveness is demanded here and nowhere else: on a good network with honest hosts a primary must emerge, everybody must get its log,
something new must become final, and whoever asks must get an answer, within a bounded time.
"""

from collections.abc import Iterable
from typing import Any, Final

from ledgerd.enclave.consensus.core import Retirement
from ledgerd.ledger.entry import ZERO_DIGEST
from support.histories import Entry, Id, Timeline, check, check_ledgers, check_reads, check_receipts
from support.linearizability import Value
from support.simulation.application import KEYS, map_of
from support.simulation.ledgers import as_applications_see
from support.simulation.violation import Violation

# A channel may wait for seconds for the rest of a record whose length was damaged, and elections may be split again and again.
ROUNDS: Final = 16
ROUND_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.05


def finish(world: Any) -> None:
    """Heal, demand progress, judge.

    Raises: Violation: A rule is broken.
    """
    heal(world)
    world.judge_end()


def heal(world: Any) -> None:
    """Raises: Violation: There is no progress after everything was healed, or somebody waits in vain."""
    world.calm()
    for _ in range(ROUNDS):
        live(world, ROUND_SECONDS)
        target = world.demand()
        if target is None:
            continue
        live(world, ROUND_SECONDS / 2)
        primary = world.primary()
        if primary is None:
            continue
        wanted = frozenset().union(*(nodes for _, nodes in primary.shadow.configurations))
        members = world.alive(wanted)
        if all(node.shadow.commit >= target for node in members if node.core.retirement is Retirement.NONE):
            world.demand_answer(primary)
            live(world, ROUND_SECONDS / 2)
            lacking = world.unanswered()
            if lacking:
                raise Violation("AnswersAfterHeal", f"{lacking}: {describe(primary)}")
            return
    if world.may_stand_still():
        return
    states = "; ".join(describe(node) for node in world.up())
    raise Violation("ProgressAfterHeal", f"nothing new becomes final: {states}")


def live(world: Any, seconds: float) -> None:
    """Let time pass on a good network with fast disks."""
    for _ in range(round(seconds / STEP_SECONDS)):
        world.do_pass(STEP_SECONDS)
        world.rest()


def describe(node: Any) -> str:
    """A node on one line."""
    core, shadow = node.core, node.shadow
    groups = " ".join(f"{seqno}:{{{' '.join(sorted(name[:8] for name in nodes))}}}" for seqno, nodes in shadow.configurations)
    phase = f" {core.retirement.value}" if core.retirement.value else ""
    where = f"last {core.last_id} stored {core.stored_seqno} commit {core.commit_id}"
    return f"{node.name} {core.role.value} view {core.view} {where} {groups}{phase}"


def judge_service(world: Any) -> None:
    """What clients saw, what disks have, what states are; for worlds with a service.

    Raises: Violation, HistoryError: A rule is broken.
    """
    registry = world.registry
    known = as_applications_see(registry, world.secret, world.announced)
    ledger = [known[view, seqno] for seqno, view in enumerate(registry.final) if seqno]
    history = world.clients.history
    check(history, ledger)
    check_reads(history, Lineages(registry, known.values()))
    entries = {(entry.view, entry.seqno): entry for entry in ledger}

    def verify(receipt: bytes) -> Id:
        verified = world.verify_receipt(receipt)
        proven = (verified.transaction_id.view, verified.transaction_id.seqno)
        wanted = world.clients.claims & set(entries[proven].writes.values()) if proven in entries else set()
        claims = wanted.pop().encode().ljust(32, b"\0")[:32] if wanted else ZERO_DIGEST
        if verified.claims_digest != claims:
            raise Violation("ReceiptHasItsClaims", f"{proven} claims {verified.claims_digest.hex()} instead of {claims.hex()}")
        return proven

    check_receipts(history, ledger, verify)
    check_ledgers({node.name: node.disk.entries[: node.shadow.commit] for node in world.up()})
    timeline = Timeline(ledger)
    for node in world.up():
        judge_state(node, timeline, registry)


def judge_state(node: Any, timeline: Timeline, registry: Any) -> None:
    """A node's state is that of its log: every register, at its last entry.

    Raises: Violation: It is not.
    """
    store = node.serving._replica.store
    shadow = node.shadow
    if store.version != shadow.last or node.serving._replica.history.last != shadow.last:
        raise Violation(
            "StateFollowsLog", f"{node.name}: state at {store.version}, tree at {node.serving._replica.history.last}, log {shadow.last}"
        )
    if shadow.last >= len(registry.final) or shadow.views[-1] != registry.final[shadow.last]:
        return  # what is not final may be of any fork
    at = (shadow.views[-1], shadow.last)
    for key in KEYS:
        value = store.get(map_of(key), key.encode())
        expected = timeline.value(at, key)
        if (None if value is None else value.decode()) != expected:
            raise Violation("StateFollowsLog", f"{node.name} has {value!r} in {key}, its log says {expected}")


class Lineages:
    """The state at every id that there ever was, rolled-back ones included; for `histories.check_reads`."""

    def __init__(self, registry: Any, entries: Iterable[Entry]) -> None:
        self._registry = registry
        self._logs: dict[int, list[int]] = {}
        self._last: dict[int, int] = {}
        for view, seqno in registry.facts:
            self._last[view] = max(seqno, self._last.get(view, 0))
        self._written: dict[str, list[tuple[int, int, Value]]] = {}
        for entry in sorted(entries, key=lambda entry: entry.seqno):
            for key, value in entry.writes.items():
                self._written.setdefault(key, []).append((entry.seqno, entry.view, value))

    def knows(self, transaction: Id) -> bool:
        """Whether there ever was such an entry."""
        return transaction in self._registry.facts

    def value(self, transaction: Id, key: str, *, before: bool = False) -> Value:
        """What a register held there."""
        view, seqno = transaction
        log = self._logs.get(view)
        if log is None:  # a view has one author, so one log that ends in its last entry
            log = self._logs[view] = self._registry.lineage(view, self._last[view])
        found: Value = None
        for at, of, value in self._written.get(key, []):
            if at > seqno - before:
                break
            if log[at] == of:
                found = value
        return found
