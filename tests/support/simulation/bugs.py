"""All planted bugs, where to look for each, and within how many seeds it must be found: a simulation that misses them proves nothing.

Most are found by the runs that `scripts/simulate` makes anyway. Those that need a rare coincidence are looked for in runs with one steered
sequence (`recipes`) and few other faults, or with hosts that only lie; the usual runs have these, too, among everything else.
"""

from dataclasses import replace
from random import Random
from typing import Final, NamedTuple

from ledgerd.enclave import serving
from support import consensus_bugs
from support.simulation import bugs_service, core_world
from support.simulation.patches import Change
from support.simulation.plan import REKEY, SMALL, Plan, draw, set_back


class Bug(NamedTuple):
    """One planted bug.

    Attributes:
        name: Of the class or function that says what is wrong.
        changes: What is patched.
        world: Where to look for it.
        seeds: Within how many, from the first on, it must be found.
        recipe: The steered sequence of these runs; None for runs as they come.
        nodes: How many these runs start with; None for as they come.
        lying: In these runs hosts lie about their disks from beginning to end, and nothing else goes wrong.
        set_back: In these runs a host sets back the memory of an enclave.
        rekeyed: In these runs a member has the ledger's secret changed, also where that is undone.
    """

    name: str
    changes: tuple[Change, ...]
    world: str
    seeds: int = 20
    recipe: str | None = None
    nodes: int | None = None
    lying: bool = False
    set_back: bool = False
    rekeyed: bool = False

    def plan(self, seed: int) -> Plan:
        """The plan of one of its seeds."""
        plan = draw(seed, self.world, nodes=self.nodes)
        if self.lying:
            return replace(plan, settings=dict(SMALL), recipes=(), faults={"lie": 1.0})
        if self.set_back:
            return set_back(plan, Random(f"set back {seed}"))
        if self.rekeyed:
            return replace(plan, recipes=("secret undone",), faults={**plan.faults, REKEY: 1.0})
        if self.recipe is None:
            return plan
        return replace(plan, recipes=(self.recipe,), faults={name: s for name, s in plan.faults.items() if name in ("delay", "drift")})


_STEERED: Final = {
    "BelievesOldGenerations": ("late sync", 3),
    "BelievesAnyRound": ("deposed reader", 3),
    "AnswersByLease": ("deposed reader", 3),
    "KeepsItsRemoval": ("lost configuration", 3),
    "RemembersWhomItRefused": ("double vote", 3),
    "RemovedNodesNeverStand": ("last word of who left", 2),
    "reads_without_confirmation": ("deposed reader", 3),
    "says_invalid_too_early": ("undone and kept", 5),
    "says_invalid_by_guess": ("undone and kept", 5),
    "idempotency_outlives_a_rollback": ("asked again", 3),
    "keys_end_with_their_view": ("asked again", 3),
}
_SELDOM_SEEN: Final = {"CountsOldVotes": 90}  # in four of a hundred seeds
_SET_BACK: Final = ("HashNotCompared",)
_LYING: Final = ("believes_storage",)


def _consensus() -> list[Bug]:
    found = []
    for bug in (*consensus_bugs.PLANTED, *consensus_bugs.FOUND_BY_SIMULATION):
        recipe, nodes = _STEERED.get(bug.__name__, (None, None))
        changes: tuple[Change, ...] = ((core_world, "Consensus", bug), (serving, "CONSENSUS", bug))
        seeds = _SELDOM_SEEN.get(bug.__name__, 30)
        found.append(Bug(bug.__name__, changes, "core", seeds, recipe, nodes, set_back=bug.__name__ in _SET_BACK))
    return found


def _service() -> list[Bug]:
    found = []
    for name, changes in bugs_service.PLANTED.items():
        recipe, nodes = _STEERED.get(name, (None, None))
        found.append(Bug(name, changes, "replica", 20, recipe, nodes, name in _LYING))
    return found


def _rekeying() -> list[Bug]:
    return [Bug(name, changes, "complete", 5, rekeyed=True) for name, changes in bugs_service.PLANTED_IN_REKEYING.items()]


BUGS: Final = (*_consensus(), *_service(), *_rekeying())
