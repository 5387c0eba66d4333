"""Which event comes next: drawn from one seed, as the plan has it, with a look at the world.

Most events are deliveries, syncs, the passing of time and clients' requests, drawn one at a time so that they meet in any order. Faults
come in between, single ones and spells. Now and then a steered sequence (`recipes`) sets up what chance alone would seldom find.
Not here: what events do (`world` and the worlds beneath).
"""

import random
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, Final

from ledgerd.enclave.consensus.core import Retirement, Role
from support.simulation import recipes
from support.simulation.disk import LIES
from support.simulation.plan import REKEY, SET_BACK, Plan
from support.simulation.world import Event

_SPELL_STEPS: Final = 250  # how long a fault that ends by itself lasts, about


class Driver:
    """Draws events for one world."""

    def __init__(self, plan: Plan, world: Any) -> None:
        self.plan = plan
        self.world = world
        self.chance = random.Random(f"events {plan.seed} {plan.world}")
        self._queue: deque[Event] = deque()
        self._recipe: Iterator[Event] | None = None
        self._undo: list[tuple[int, Event]] = []  # (step, event): what ends a spell
        self._step = 0
        self._slow: set[tuple[str, str]] = set()
        faults = plan.faults
        self._loss = 0.15 * faults.get("loss", 0) ** 2
        self._repeat = self._loss + 0.15 * faults.get("repeat", 0) ** 2
        self._reorder = faults.get("reorder", 0) * 0.5
        temper = plan.temper
        self._drain = temper.get("drain", 0)
        weights: list[tuple[float, Callable[[], Event | None]]] = [
            (temper["deliver"], self._deliver),
            (temper["store"] * (0.3 if "slow disk" in faults else 1.0), self._store),
            (temper["pass"], self._pass),
            (temper["write"], self._client),
            (0.06, self._recipe_or_not),
        ]
        rare: dict[str, tuple[float, Callable[[], Event | None]]] = {
            "drift": (0.1, self._drift),
            "jump": (0.02, self._jump),
            "freeze": (0.02, self._freeze),
            "replay": (0.1, self._replay),
            "reset": (0.06, self._reset),
            "delay": (0.03, self._delay),
            "partition": (0.03, self._partition),
            "isolate": (0.03, self._isolate),
            "one-way": (0.03, self._one_way),
            "flap": (0.06, self._flap),
            "crash": (0.01, self._crash),
            "pause": (0.03, self._pause),
            "lie": (0.04, self._lie),
            "membership": (0.06, self._membership),
            "replace": (0.02, self._replace),
            "client": (0.1, self._trouble),
            SET_BACK: (0.1, self._set_back),
            REKEY: (0.02, self._rekey),
        }
        weights += [(weight * faults[name] * 2, draw) for name, (weight, draw) in rare.items() if name in faults]
        self._thresholds = list(accumulate(weight for weight, _ in weights))
        self._draws = [draw for _, draw in weights]
        self._total = self._thresholds[-1]

    def next(self) -> Event:
        """The next event."""
        self._step += 1
        if self._undo and self._undo[0][0] <= self._step:
            return self._undo.pop(0)[1]
        if self._queue:
            return self._queue.popleft()
        if self._recipe is not None and self.chance.random() < 0.96:
            event = next(self._recipe, None)
            if event is not None:
                return event
            self._recipe = None
        while True:
            drawn = self._draws[bisect(self._thresholds, self.chance.random() * self._total)]()
            if drawn is not None:
                return drawn

    # What happens anyway.

    def _deliver(self) -> Event | None:
        chance = self.chance.random
        network = self.world.network
        busy = network.busy
        if not busy:
            return self._pass()
        pair = busy[int(chance() * len(busy))]
        if pair in self._slow and chance() < 0.95:
            return None
        draw = chance()
        if self.world.is_bytes:
            draw *= 8  # each breaks a stream, and begins a handshake
            if draw < self._repeat and chance() < 0.5:
                event: Event = self.world.byte_event(self.chance, pair)
                return event
        if draw < self._repeat:
            return ("lose" if draw < self._loss else "repeat", *pair, 0)
        if self._drain and chance() < self._drain:
            return ("drain", pair[1], 1 + int(8 * chance()))
        count = network.pending(pair)
        if self._reorder and not self.world.is_bytes and count > 1 and chance() < self._reorder:
            return ("deliver", *pair, self.chance.randrange(count), 1)
        return ("deliver", *pair, 0, 1 + int(count * 0.5 * chance()))

    def _store(self) -> Event | None:
        waiting = [node.name for node in self.world.running() if node.disk.queue]
        return ("store", self.chance.choice(waiting)) if waiting else None

    def _pass(self) -> Event:
        return ("pass", self.chance.choice(self.plan.pace))

    def _client(self) -> Event | None:
        event: Event | None = self.world.client_event(self.chance)
        return event

    def _recipe_or_not(self) -> Event | None:
        if not self.plan.recipes or self._recipe is not None:
            return None
        name = self.chance.choice(self.plan.recipes)
        self._recipe = recipes.RECIPES[name](self.world, self.chance)
        self.world.faults["recipe: " + name] += 1
        if self.chance.random() < 0.75:
            self._queue.extend(self._calm())
        return None

    def _calm(self) -> list[Event]:
        """End all spells, and give the service a moment: sequences that begin in chaos come to nothing."""
        self._undo.clear()
        self._slow = set()
        events: list[Event] = [("mend",)]
        for node in self.world.up():
            events += [(name, node.name, 0) for name, on in (("pause", node.is_paused), ("freeze", node.is_frozen)) if on]
            events += [("honest", node.name)] if node.disk.lie is not None else []
        quiet = sorted(node.name for node in self.world.up())
        for _ in range(4):
            events.append(("pass", 0.1))
            for _ in range(2):
                events += [("drain", name, 8) for name in quiet]
        return events

    # Faults. A spell ends by itself, so that not everything is broken all the time.

    def _later(self, event: Event, steps: int | None = None) -> None:
        at = self._step + (steps if steps is not None else 1 + int(self.chance.expovariate(1 / _SPELL_STEPS)))
        self._undo.append((at, event))
        self._undo.sort(key=lambda item: item[0])

    def _some(self) -> Any | None:
        running = self.world.running()
        return self.chance.choice(running) if running else None

    def _drift(self) -> Event | None:
        node = self._some()
        return ("tick", node.name, self.chance.choice(self.plan.pace)) if node else None

    def _jump(self) -> Event | None:
        node = self._some()
        return ("tick", node.name, self.chance.choice([1.1, 3.0, 20.0])) if node else None

    def _freeze(self) -> Event | None:
        node = self._some()
        if node is None:
            return None
        self._later(("freeze", node.name, 0))
        return ("freeze", node.name, 1)

    def _replay(self) -> Event | None:
        names = list(self.world.nodes)
        if len(names) < 2:
            return None
        return ("replay", *self.chance.sample(names, 2), self.chance.randrange(12))

    def _reset(self) -> Event | None:
        names = list(self.world.nodes)
        return ("break", *self.chance.sample(names, 2)) if len(names) > 1 else None

    def _delay(self) -> Event | None:
        """Some ways become slow, others as before; of no effect on the world but by what is delivered."""
        names = list(self.world.nodes)
        strength = self.plan.faults["delay"]
        self._slow = {(a, b) for a in names for b in names if a != b and self.chance.random() < strength * 0.5}
        self.world.faults["delay"] += len(self._slow)
        return None

    def _partition(self) -> Event | None:
        names = list(self.world.nodes)
        self.chance.shuffle(names)
        group = names[: self.chance.randrange(1, len(names) + 1)]
        self._later(("mend",))
        return ("partition", "both", *sorted(group))

    def _isolate(self) -> Event | None:
        primary = self.world.primary()
        if primary is None:
            return None
        self._later(("mend",))
        self.world.faults["primary isolated"] += 1
        return ("partition", self.chance.choice(["both", "both", "in", "out"]), primary.name)

    def _one_way(self) -> Event | None:
        names = list(self.world.nodes)
        if len(names) < 2:
            return None
        self._later(("mend",))
        return ("partition", self.chance.choice(["in", "out"]), *self.chance.sample(names, self.chance.randrange(1, len(names))))

    def _flap(self) -> Event | None:
        names = list(self.world.nodes)
        if len(names) < 2:
            return None
        pair = self.chance.sample(names, 2)
        self._later(("mend",), self.chance.randrange(2, 30))
        self.world.faults["flap"] += 1
        return ("cut", *pair)

    def _crash(self) -> Event | None:
        node = self._some()
        if node is None or not self.world.may_lose(node.name):
            return None
        return ("crash", node.name, self.chance.randrange(3))

    def _pause(self) -> Event | None:
        node = self.world.primary() if self.chance.random() < 0.4 else self._some()
        if node is None:
            return None
        self._later(("pause", node.name, 0))
        return ("pause", node.name, 1)

    def _lie(self) -> Event | None:
        node = self._some()
        if node is None:
            return None
        lie = self.chance.choice(list(LIES))
        if lie == "boastful":
            return ("boast", node.name, self.chance.randrange(2), self.chance.choice([0, 1, 2, 1_000]))
        if lie == "failing":
            failing = [other for other in self.world.up() if other.disk.lie and other.disk.lie[0] == "failing"]
            if failing:
                return None
        self._later(("honest", node.name))
        return ("lie", node.name, lie, self.chance.randrange(1 << 16))

    def _membership(self) -> Event | None:
        """Grow, shrink (the primary, too), put on record, stop who is gone; several at once, so that configurations overlap."""
        world, chance = self.world, self.chance
        for node in world.up():
            if node.core.retirement is Retirement.RETIRED_COMMITTED and chance.random() < 0.5:
                world.faults["retired node stopped"] += 1
                return ("crash", node.name, 0)
        primary = world.primary()
        if primary is None or not primary.shadow.configurations:
            return None
        nodes = primary.shadow.configurations[-1][1]
        draw = chance.random()
        if draw < 0.3 and (events := world.record_events()):
            world.faults["membership: recorded"] += 1
        elif draw < 0.6 and len(nodes) < self.plan.nodes_max:
            world.faults["membership: grown"] += 1
            events = world.grow_events(chance, min(chance.choice([1, 1, 2]), self.plan.nodes_max - len(nodes)))
        elif len(nodes) > 1:
            leaver = primary.node_id if chance.random() < 0.3 and primary.node_id in nodes else chance.choice(sorted(nodes))
            events = world.shrink_events(world.by_id[leaver].name) if leaver in world.by_id else []
            if events:
                world.faults["membership: shrunk" + (" by the primary" if leaver == primary.node_id else "")] += 1
        else:
            return None
        self._queue.extend(events[1:])
        return events[0] if events else None

    def _replace(self) -> Event | None:
        """A node dies and another takes its place, under another name: what `restart` is."""
        world = self.world
        down = [node for node in world.nodes.values() if not node.is_up]
        primary = world.primary()
        if primary is None or not primary.shadow.configurations:
            return None
        nodes = primary.shadow.configurations[-1][1]
        dead = [node for node in down if node.node_id in nodes]
        if not dead:
            node = self._some()
            if node is None or node.core.role is Role.NONE or not world.may_lose(node.name):
                return None
            return ("crash", node.name, self.chance.randrange(3))
        world.faults["restart under a new identity"] += 1
        events = [*world.grow_events(self.chance, 1), *world.shrink_events(dead[0].name)]
        self._queue.extend(events[1:])
        return events[0] if events else None

    def _set_back(self) -> Event | None:
        event: Event | None = self.world.set_back_event(self.chance)
        return event

    def _rekey(self) -> Event | None:
        """The member goes on with a change of the ledger's secret, as a rule at the primary."""
        node = self.world.primary() if self.chance.random() < 0.7 else self._some()
        events = self.world.rekey_events(node, self.chance) if node is not None else []
        return events[0] if events else None

    def _trouble(self) -> Event | None:
        event: Event | None = self.world.client_trouble(self.chance)
        return event
