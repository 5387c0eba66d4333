"""Steered sequences: what sets up a coincidence that chance alone finds once in hundreds of seeds.

Each yields events, looking at the world as it goes; the driver mixes others in between. None of them assumes that it succeeds.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from ledgerd.enclave.consensus.core import Role
from support.simulation.world import Event

Recipe = Callable[[Any, Random], Iterator[Event]]
_PATIENCE: Final = 120  # steps of waiting for an election


def _members(world: Any, node: Any) -> list[Any]:
    """The nodes of its newest configuration that live."""
    if not node.shadow.configurations:
        return []
    alive: list[Any] = world.alive(node.shadow.configurations[-1][1])
    return alive


def _turn(world: Any, names: set[str], seconds: float = 0.1) -> Iterator[Event]:
    """Time passes for some nodes, and what is between them arrives and is stored."""
    for name in sorted(names):
        yield ("tick", name, seconds)
    for pair in list(world.network.busy):
        if pair[0] in names and pair[1] in names:
            while world.network.pending(pair) and pair not in world.network.cut:
                yield ("deliver", *pair, 0, 4)
    for name in sorted(names):
        while world.nodes[name].disk.queue and world.nodes[name].disk.lie is None:
            yield ("store", name)


def _elect(world: Any, names: set[str], view: int) -> Iterator[Event]:
    """Let some nodes be by themselves until one of them leads in a later view."""
    for _ in range(_PATIENCE):
        if any(world.nodes[name].core.role is Role.PRIMARY and world.nodes[name].core.view > view for name in names):
            return
        yield from _turn(world, names)


def _lead(world: Any, names: set[str], view: int) -> Any | None:
    return next(
        (world.nodes[n] for n in sorted(names) if world.nodes[n].core.role is Role.PRIMARY and world.nodes[n].core.view > view), None
    )


def deposed_reader(world: Any, chance: Random) -> Iterator[Event]:
    """A primary is cut off or stopped, another one is chosen and commits; then the first is asked for something linearizable.

    It must find out before it answers: no clock tells it (etcd #20418).
    """
    old = world.primary()
    if old is None or len(_members(world, old)) < 3:
        return
    stopped = chance.random() < 0.5
    yield ("pause", old.name, 1) if stopped else ("partition", "both", old.name)
    names = {node.name for node in _members(world, old)} - {old.name}
    if not stopped:
        yield ("freeze", old.name, 1)
    yield from _elect(world, names, old.core.view)
    new = _lead(world, names, old.core.view)
    if new is not None:
        for _ in range(2):
            yield world.an_update(new, chance)
            yield world.a_signature(new)
            for _ in range(4):
                yield from _turn(world, names, 0.03)
    yield ("pause", old.name, 0)
    for _ in range(3):
        yield world.a_read(old, chance)
    yield from world.probes(chance, old)
    yield ("freeze", old.name, 0)
    if chance.random() < 0.7:
        yield ("mend",)


def last_signer_leaves(world: Any, chance: Random) -> Iterator[Event]:
    """A primary removes itself, and nobody but it has the signature over that when it is deposed; the others need its vote.

    They get it only if it may stand itself (premature retirement, CCF #5919, #5973).
    """
    primary = world.primary()
    if primary is None:
        return
    members = _members(world, primary)
    # As many go first as a majority bears: then every vote is needed.
    for node in members:
        if node is not primary and world.may_lose(node.name):
            yield ("crash", node.name, 0)
    if len(_members(world, primary)) < 2:
        return
    leaver = primary.name if chance.random() < 0.7 else chance.choice([n.name for n in _members(world, primary) if n is not primary])
    if leaver == primary.name:
        yield ("partition", "both", leaver)
    else:
        yield ("partition", "both", leaver, primary.name)
    yield from world.shrink_events(leaver)
    yield world.a_signature(primary)
    names = {leaver, primary.name}
    for _ in range(3):
        yield from _turn(world, names, 0.02)
    if leaver != primary.name and world.may_lose(primary.name):
        yield ("crash", primary.name, 0)
    for _ in range(14):
        yield ("pass", 0.1)
    yield ("mend",)


def last_word_of_who_left(world: Any, chance: Random) -> Iterator[Event]:
    """A primary's removal of itself is final, and only it knows; it goes on signing, and is cut off. The others still need its vote.

    They do not get it, since its log is later than theirs: it must stand itself, though no configuration has it any more (CCF #5919).
    """
    primary = world.primary()
    if primary is None:
        return
    for node in _members(world, primary):
        alive, all_ = len(_members(world, primary)), len(primary.shadow.configurations[-1][1])
        if node is not primary and (alive - 2) * 2 > all_ - 1 and world.may_lose(node.name):
            yield ("crash", node.name, 0)
    others = [node for node in _members(world, primary) if node is not primary]
    if not others:
        return
    before = primary.shadow.configurations[-1][0]
    yield from world.shrink_events(primary.name)
    yield world.a_signature(primary)
    for _ in range(8):
        if primary.shadow.configurations[0][0] > before:
            break
        yield ("tick", primary.name, 0.02)
        yield ("store", primary.name)
        for node in others:
            while world.network.pending((primary.name, node.name)):
                yield ("deliver", primary.name, node.name, 0, 4)
            while node.disk.queue and node.disk.lie is None:
                yield ("store", node.name)
        for node in others:
            while world.network.pending((node.name, primary.name)) and primary.shadow.configurations[0][0] == before:
                yield ("deliver", node.name, primary.name, 0, 1)
    for node in others:
        while world.network.pending((primary.name, node.name)):
            yield ("lose", primary.name, node.name, 0)
    yield ("partition", "both", primary.name)
    for _ in range(2):
        yield world.an_update(primary, chance)
        yield world.a_signature(primary)
        yield ("store", primary.name)
    for _ in range(14):
        yield ("pass", 0.1)
    for node in others:
        while world.network.pending((primary.name, node.name)):
            yield ("lose", primary.name, node.name, 0)
    yield ("mend",)


def figure_8(world: Any, chance: Random) -> Iterator[Event]:
    """An entry of an earlier view gets onto a majority under a later primary, which is lost before it commits one of its own.

    Raft's figure 8: to count the copies of the earlier entry would be wrong (CCF #3828, #3950, #3971, #5674).
    """
    first = world.primary()
    if first is None or len(_members(world, first)) < 3:
        return
    for _ in range(chance.choice([2, 3, 4])):
        primary = world.primary()
        if primary is None or primary.is_paused:
            return
        members = {node.name for node in _members(world, primary)}
        if len(members) < 2:
            return
        friend = chance.choice(sorted(members - {primary.name}))
        pair = {primary.name} if chance.random() < 0.5 else {primary.name, friend}
        yield ("partition", "both", *sorted(pair))
        yield world.an_update(primary, chance)
        yield world.a_signature(primary)
        yield from _turn(world, pair, 0.02)
        others = members - pair if chance.random() < 0.7 else members - {primary.name}
        if len(others) * 2 <= len(members):
            others = members - {primary.name}
        yield ("mend",)
        yield ("partition", "both", *sorted(set(world.nodes) - others))
        view = primary.core.view
        yield from _elect(world, others, view)
        winner = _lead(world, others, view)
        if winner is not None and chance.random() < 0.5:
            yield ("mend",)
            yield ("partition", "both", *sorted({winner.name, primary.name}))
            yield from _turn(world, {winner.name, primary.name}, 0.05)
    yield ("mend",)


def late_sync(world: Any, chance: Random) -> Iterator[Event]:
    """A disk is busy while its node's log is rolled back and filled again: the sync that then ends is of entries that are no more."""
    primary = world.primary()
    if primary is None or len(_members(world, primary)) < 2:
        return
    members = {node.name for node in _members(world, primary)}
    yield ("partition", "both", primary.name)
    for _ in range(chance.choice([1, 2, 4])):
        yield world.an_update(primary, chance)
        yield world.a_signature(primary)
    view = primary.core.view
    others = members - {primary.name}
    yield from _elect(world, others, view)
    winner = _lead(world, others, view)
    if winner is None:
        yield ("mend",)
        return
    for _ in range(chance.choice([1, 2, 4])):
        yield world.an_update(winner, chance)
        yield world.a_signature(winner)
    yield ("mend",)
    # The old primary hears of the new one, and its disk has done nothing yet.
    for _ in range(6):
        yield ("tick", winner.name, 0.1)
        for pair in ((winner.name, primary.name), (primary.name, winner.name)):
            while world.network.pending(pair):
                yield ("deliver", *pair, 0, 2)
        if chance.random() < 0.5:
            yield ("store", primary.name)
    yield ("partition", "both", winner.name, primary.name)
    yield from _turn(world, {winner.name, primary.name}, 0.05)
    yield ("mend",)


def torn_configuration(world: Any, chance: Random) -> Iterator[Event]:
    """A configuration is known to one side of a partition only, and both sides try to decide: each needs a majority, not both together."""
    primary = world.primary()
    if primary is None or not primary.shadow.configurations:
        return
    nodes = primary.shadow.configurations[-1][1]
    events = world.grow_events(chance, chance.choice([1, 2, 2, 3])) if len(nodes) < 5 else []
    if not events:
        others = sorted(node for node in nodes - {primary.node_id} if node in world.by_id)
        events = world.shrink_events(world.by_id[chance.choice(others)].name) if others else []
    yield from events
    members = [node.name for node in _members(world, primary)]
    fresh = [name for name in members if world.nodes[name].node_id not in nodes]
    old = [name for name in members if name not in fresh and name != primary.name]
    for name in fresh:
        for pair in ((primary.name, name), (name, primary.name)) * 3:
            if world.network.pending(pair):
                yield ("deliver", *pair, 0, 4)
        yield from _turn(world, {primary.name, name}, 0.05)
    side = {primary.name, *fresh}
    if old and chance.random() < 0.3:
        side.add(chance.choice(old))
    yield ("partition", "both", *sorted(side))
    yield world.an_update(primary, chance)
    yield world.a_signature(primary)
    view = primary.core.view
    for _ in range(3):
        yield from _turn(world, side, 0.05)
    yield from _elect(world, set(world.nodes) & {node.name for node in world.up()} - side, view)
    for _ in range(12):
        yield ("pass", 0.1)
        yield from _turn(world, side, 0.01)
    yield ("mend",)


def double_vote(world: Any, chance: Random) -> Iterator[Event]:
    """Two stand in one view, and who voted for the first is asked by the second."""
    primary = world.primary()
    if primary is None or len(_members(world, primary)) < 3:
        return
    members = [node.name for node in _members(world, primary) if node is not primary]
    yield ("pause", primary.name, 1)
    yield ("pass", 0.35)
    one, other, *voters = chance.sample(members, len(members)) + ([primary.name] if len(members) < 3 else [])
    for name in (one, other):
        yield ("tick", name, 1.0)
    for asker, asked in ((one, other), (other, one)):
        for pair in ((asker, asked), (asked, asker)):
            yield ("deliver", *pair, 0, 1)
    for name in (one, other):
        for voter in (*voters, one, other):
            if not world.is_bytes and chance.random() < 0.5:  # who was refused is heard a second time
                yield ("repeat", name, voter)
                yield ("deliver", name, voter, 0, 1)
            for pair in ((name, voter), (voter, name)):
                yield ("deliver", *pair, 0, 1)
    for _ in range(3):
        for name in (one, other):
            yield ("tick", name, 0.5)
        for voter in voters:
            for name in (one, other):
                yield ("deliver", name, voter, 0, 2)
                yield ("deliver", voter, name, 0, 2)
    yield ("pause", primary.name, 0)


def fork_and_return(world: Any, chance: Random) -> Iterator[Event]:
    """A primary alone makes more and more while others go on without it; then it comes back with all of it."""
    old = world.primary()
    if old is None or len(_members(world, old)) < 3:
        return
    names = {node.name for node in _members(world, old)} - {old.name}
    yield ("partition", chance.choice(["both", "out", "in"]), old.name)
    for _ in range(chance.choice([2, 5])):
        yield world.an_update(old, chance)
        if chance.random() < 0.6:
            yield world.a_signature(old)
        yield ("store", old.name)
    view = old.core.view
    yield from _elect(world, names, view)
    new = _lead(world, names, view)
    for _ in range(chance.choice([1, 3])):
        if new is not None:
            yield world.an_update(new, chance)
            yield world.a_signature(new)
            yield from _turn(world, names, 0.03)
    yield ("mend",)
    for _ in range(4):
        yield from _turn(world, names | {old.name}, 0.05)
        yield from world.probes(chance, old)


def lost_configuration(world: Any, chance: Random) -> Iterator[Event]:
    """A configuration that only a deposed primary has is rolled back with it; who goes on counting by it decides alone (openraft #1808)."""
    old = world.primary()
    if old is None or len(_members(world, old)) < 3:
        return
    names = {node.name for node in _members(world, old)} - {old.name}
    yield ("partition", "both", old.name)
    leaver = old.name if chance.random() < 0.4 else chance.choice(sorted(names))
    yield from world.shrink_events(leaver)
    if chance.random() < 0.5:
        yield world.a_signature(old)
    yield from _elect(world, names, old.core.view)
    yield ("mend",)
    for _ in range(3):
        yield from _turn(world, names | {old.name}, 0.05)
    # Whoever kept it thinks that fewer are enough.
    yield ("partition", "both", old.name, chance.choice(sorted(names)))
    for _ in range(14):
        yield ("pass", 0.1)
        yield from _turn(world, {node.name for node in world.up()}, 0.01)
    yield ("mend",)


def undone_and_kept(world: Any, chance: Random) -> Iterator[Event]:
    """A primary and one friend have a signed entry; a second primary takes it from the first, and is lost; with the friend it comes back.

    So what is undone at one node, under a later view, may still become final.
    """
    first = world.primary()
    if first is None or len(_members(world, first)) < 4:
        return
    members = {node.name for node in _members(world, first)}
    friend, *rest = chance.sample(sorted(members - {first.name}), len(members) - 1)
    pair = {first.name, friend}
    yield ("partition", "both", *sorted(pair))
    for _ in range(chance.choice([1, 2])):
        yield world.an_update(first, chance)
    yield world.a_signature(first)
    for _ in range(3):
        yield from _turn(world, pair, 0.02)
    view = first.core.view
    yield from _elect(world, set(rest), view)
    second = _lead(world, set(rest), view)
    if second is None:
        yield ("mend",)
        return
    # Only the first one hears of the second.
    yield ("mend",)
    yield ("partition", "both", first.name, second.name)
    for _ in range(5):
        yield ("tick", second.name, 0.03)
        for way in ((second.name, first.name), (first.name, second.name)):
            while world.network.pending(way) and way not in world.network.cut:
                yield ("deliver", *way, 0, 4)
        if chance.random() < 0.5:
            yield ("store", first.name)
        yield from world.probes(chance, first)
    yield from _elect(world, members - {first.name, second.name}, second.core.view)
    third = _lead(world, members - {first.name, second.name}, second.core.view)
    if third is not None:
        for _ in range(4):
            yield from _turn(world, members - {first.name, second.name}, 0.03)
        yield from world.probes(chance, third)
    yield ("mend",)
    for _ in range(3):
        yield from _turn(world, members, 0.05)


def asked_again(world: Any, chance: Random) -> Iterator[Event]:
    """A client's request is executed by a primary alone, and undone; the client asks again, of whoever leads then: the first one, too."""
    first = world.primary()
    if first is None or len(_members(world, first)) < 3:
        return
    members = {node.name for node in _members(world, first)}
    yield ("partition", "both", first.name)
    for _ in range(chance.choice([1, 3])):
        yield world.an_update(first, chance)
    yield from world.probes(chance, first)
    yield from _elect(world, members - {first.name}, first.core.view)
    yield ("mend",)
    for _ in range(4):
        yield from _turn(world, members, 0.05)
    yield from world.probes(chance, first)
    second = world.primary()
    if second is not None and second is not first:
        yield ("partition", "both", second.name)
        yield from _elect(world, members - {second.name}, second.core.view)
        third = _lead(world, members - {second.name}, second.core.view)
        if third is not None:
            for _ in range(3):
                yield from _turn(world, members - {second.name}, 0.03)
            yield from world.probes(chance, third)
    yield ("mend",)


def memory_set_back(world: Any, chance: Random) -> Iterator[Event]:
    """A host takes a copy of an enclave's memory, lets it go on, puts the copy back, and plays to it again what it had played before.

    A primary then makes other entries of names that it has used, and hears acknowledgements of the first; a backup has forgotten what it
    acknowledged, or whom it voted for.
    """
    primary = world.primary()
    if primary is None or world.registry.set_back or len(_members(world, primary)) < 2:
        return
    names = {node.name for node in _members(world, primary)}
    node = primary if chance.random() < 0.7 else world.nodes[chance.choice(sorted(names))]
    others = names - {node.name}
    if chance.random() < 0.5:  # so that it asks where its peers' logs end
        for other in sorted(others):
            yield ("break", node.name, other)
    if chance.random() < 0.5:
        yield world.an_update(primary, chance)
    yield ("copy", node.name)
    for _ in range(chance.choice([1, 2, 3])):
        yield world.an_update(primary, chance)
        yield world.a_signature(primary)
        for _ in range(3):
            yield from _turn(world, names, 0.02)
    alone = chance.random() < 0.6
    if alone:
        yield ("partition", "both", node.name)
    if alone and node is primary and chance.random() < 0.5:
        yield from _elect(world, others, primary.core.view)
    yield ("restore", node.name)
    leads = node.core.role is Role.PRIMARY
    for _ in range(chance.choice([1, 2, 4])):
        if leads:
            yield world.an_update(node, chance)
            yield world.a_signature(node)
            yield ("store", node.name)
    for step in range(60):
        yield ("again", node.name, 0 if chance.random() < 0.8 else chance.randrange(6))
        if step % 10 == 9:
            yield ("tick", node.name, 0.05)
            yield ("break", node.name, chance.choice(sorted(others)))
    yield ("mend",)
    for _ in range(4):
        yield from _turn(world, {name for name in names if world.nodes[name].is_up}, 0.05)


def secret_undone(world: Any, chance: Random) -> Iterator[Event]:
    """A primary that is cut off changes the ledger's secret, and seals with the new one; others go on with the old one, or change it, too.

    The first one must give up what it announced, and take theirs: at the same place there may be another (`enclave.ledger_secrets`).
    """
    old = world.primary()
    if old is None or len(_members(world, old)) < 3:
        return
    members = {node.name for node in _members(world, old)}
    yield ("partition", "both", old.name)
    for _ in range(chance.choice([2, 4])):
        yield from world.rekey_events(old, chance)
        for _ in range(4):  # a handshake, the request, its answer
            yield ("tick", old.name, 0.01)
    yield world.an_update(old, chance)
    yield world.a_signature(old)
    yield ("store", old.name)
    yield from _elect(world, members - {old.name}, old.core.view)
    new = _lead(world, members - {old.name}, old.core.view)
    if new is not None:
        for _ in range(chance.choice([0, 2, 4])):
            yield from world.rekey_events(new, chance)
            for _ in range(4):
                yield from _turn(world, members - {old.name}, 0.01)
        yield world.an_update(new, chance)
        yield world.a_signature(new)
    yield ("mend",)
    for _ in range(4):
        yield from _turn(world, members, 0.05)
        yield from world.probes(chance, old)


RECIPES: Final[dict[str, Recipe]] = {
    "deposed reader": deposed_reader,
    "last signer leaves": last_signer_leaves,
    "last word of who left": last_word_of_who_left,
    "figure 8": figure_8,
    "late sync": late_sync,
    "torn configuration": torn_configuration,
    "double vote": double_vote,
    "fork and return": fork_and_return,
    "lost configuration": lost_configuration,
    "undone and kept": undone_and_kept,
    "asked again": asked_again,
    "secret undone": secret_undone,
    "memory set back": memory_set_back,
}
