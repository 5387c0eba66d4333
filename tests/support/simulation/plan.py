"""What a run is: drawn from its seed, written at the head of a scenario file, made smaller by `shrink`.

Swarm testing: each class of faults is on or off per seed, at a random strength, so that rare combinations meet, and no class hides another.
Not here: what comes when (`driver`).
"""

import json
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

# Classes of faults, and how likely each is on in a seed. What they do at strength s (0 to 1] is the driver's.
FAULTS: Final[dict[str, float]] = {
    "loss": 0.5,
    "repeat": 0.4,
    "reorder": 0.4,
    "replay": 0.25,
    "delay": 0.5,  # some ways are slow
    "partition": 0.6,
    "isolate": 0.5,  # the primary
    "one-way": 0.35,
    "flap": 0.2,
    "reset": 0.4,
    "crash": 0.35,
    "pause": 0.4,
    "slow disk": 0.6,
    "drift": 0.5,
    "jump": 0.3,
    "freeze": 0.25,
    "lie": 0.45,  # the disk
    "membership": 0.6,
    "replace": 0.3,
    "client": 0.7,  # hangs up, asks again elsewhere, uses a key twice
}

SET_BACK: Final = "set back"
"""A host sets back the memory of one enclave; of the core world only, and drawn apart from the others (see `_set_back`)."""
_SET_BACK_LIKELY: Final = 0.12

REKEY: Final = "rekey"
"""A member has the ledger's secret changed by proposals and votes; of the complete world only, and drawn apart from the others."""
_REKEY_LIKELY: Final = 0.25

RECIPES: Final[tuple[str, ...]] = (
    "deposed reader",
    "last signer leaves",
    "last word of who left",
    "figure 8",
    "late sync",
    "torn configuration",
    "double vote",
    "fork and return",
    "lost configuration",
    "undone and kept",
    "asked again",
)
"""Steered sequences that any run may have; see `recipes`."""


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        seed: Everything is drawn from it.
        world: `core`, `replica` or `complete`.
        crypto: `stand-in` or `real`; of the complete world only.
        steps: Events to draw.
        nodes, nodes_max: At the start, and at most.
        settings: Of consensus, where they differ from its defaults.
        holds: A cut way keeps what it is given.
        faults: Class to strength.
        recipes: Which steered sequences may be used.
        pace: How long time passes at once, seconds.
        temper: Weights of what happens anyway: deliver, store, pass, write; and how often a node finds all that is there at once: drain.
        fetch: How many entries a host gives back at once, at most; of the core world only.
    """

    seed: int
    world: str
    crypto: str = "stand-in"
    steps: int = 1_500
    nodes: int = 3
    nodes_max: int = 5
    settings: dict[str, Any] = field(default_factory=dict)
    holds: bool = False
    faults: dict[str, float] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    pace: tuple[float, ...] = (0.02, 0.05)
    temper: dict[str, float] = field(default_factory=dict)
    fetch: int = 500

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), separators=(",", ":"))


def from_json(text: str) -> Plan:
    """Read what `to_json` wrote."""
    fields = json.loads(text)
    return Plan(**{**fields, "recipes": tuple(fields["recipes"]), "pace": tuple(fields["pace"])})


# Small limits, so that batches, windows and reading back from disk are met with within a few hundred entries.
SMALL: Final = {
    "batch_entries": 4,
    "batch_bytes": 400,
    "flight_bytes": 2_000,
    "flight_messages": 8,
    "window_entries": 12,
    "window_bytes": 1_500,
}


def draw(seed: int, world: str, *, nodes: int | None = None, crypto: str = "stand-in", steps: int | None = None) -> Plan:
    """Make the plan of a seed.

    Args:
        nodes: How many to start with, instead of a random number.
        steps: How many events to draw, instead of the world's usual number.
    """
    chance = random.Random(f"plan {seed} {world}")
    settings: dict[str, Any] = dict(SMALL) if chance.random() < 0.7 else {}
    if world == "core" and chance.random() < 0.4:
        settings |= {"unsigned_entries": chance.choice([3, 2_000]), "ahead_entries": chance.choice([1, 2, 7, 128])}
    if world == "core":
        settings["promise"] = random.Random(f"promise {seed}").random() < 0.5  # apart: older seeds stay what they were in all else
    calm = chance.random() < 0.05
    faults = {} if calm else {name: round(chance.uniform(0.1, 1.0), 2) for name, likely in FAULTS.items() if chance.random() < likely}
    most = chance.choice([2, 3, 3, 3, 4, 5, 5])
    first = nodes or (chance.choice([1, most, most, most]))
    most = max(most, first)
    recipes = tuple(sorted(chance.sample(RECIPES, chance.choice([0, 1, 2, 3]))))
    plan = Plan(
        seed=seed,
        world=world,
        crypto=crypto,
        steps=steps or _STEPS[world],
        nodes=first,
        nodes_max=most,
        settings=settings,
        holds=chance.random() < 0.3,
        faults=faults,
        recipes=recipes,
        pace=chance.choice([(0.01, 0.03), (0.02, 0.05), (0.05, 0.1), (0.05, 0.1, 0.4)]),
        temper={
            "deliver": chance.choice([4.0, 8.0, 16.0]),
            "store": chance.choice([0.5, 2.0, 4.0]),
            "pass": chance.choice([0.3, 0.6, 1.0]),
            "write": chance.choice([0.5, 1.0, 2.0]),
            "drain": chance.choice([0.0, 0.0, 0.3, 0.8]),
        },
        fetch=chance.choice([3, 20, 500]),
    )
    if world == "core" and nodes is None and chance.random() < _SET_BACK_LIKELY:
        return set_back(plan, chance)
    if world == "complete" and chance.random() < _REKEY_LIKELY:
        return rekeyed(plan, chance)
    return plan


def rekeyed(plan: Plan, chance: random.Random) -> Plan:
    """The plan with a member who has the ledger's secret changed, and sometimes where the change is undone."""
    steered = ("secret undone",) if chance.random() < 0.6 else ()
    return replace(plan, faults={**plan.faults, REKEY: round(chance.uniform(0.1, 1.0), 2)}, recipes=(*plan.recipes, *steered))


def set_back(plan: Plan, chance: random.Random) -> Plan:
    """The plan with one node whose memory is set back, and nothing that makes a lie of the rules then.

    The service has an even number of nodes: two majorities of it have two nodes in common, so one besides the one that forgets. With an odd
    number they may have that one only, which gives its vote to a log that lacks what it has acknowledged; no digest prevents that
    (docs/consensus.md, point 12). For the same reason nothing changes the number.
    """
    count = chance.choice([2, 4, 4, 4])
    faults = {name: strength for name, strength in plan.faults.items() if name not in ("membership", "replace")}
    steered = tuple(name for name in plan.recipes if name not in _CHANGE_MEMBERS)
    return replace(
        plan,
        nodes=count,
        nodes_max=count,
        faults={**faults, SET_BACK: round(chance.uniform(0.1, 1.0), 2)},
        recipes=(*steered, "memory set back") if chance.random() < 0.7 else steered,
    )


_CHANGE_MEMBERS: Final = ("last signer leaves", "last word of who left", "torn configuration", "lost configuration")

_STEPS: Final = {"core": 2_500, "replica": 3_000, "complete": 3_000}
