"""What stands in for what under whole enclaves (`complete_world`): entropy, keys, clocks of scripts, signatures, TLS; and small limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, ClassVar

from ledgerd.enclave import channels, entropy, joining, keys, serving
from ledgerd.enclave import core as enclave_core
from ledgerd.enclave.runtime import quickjs, script_line, script_worker
from support.simulation import drawn, platform, stand_in_tls
from support.simulation.elections import watched
from support.simulation.patches import Change, patched
from support.simulation.plan import Plan
from support.simulation.service_world import small_limits


class Watched:
    """In the place of `enclave.serving.CONSENSUS`: who makes one begins to serve, and its world is told before any entry."""

    world: ClassVar[Any]

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        core = self._make(*arguments)
        self.world.begins_to_serve(core)
        return core


class _StandingClock:
    """In the place of the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return 0.0


@contextmanager
def seams(plan: Plan) -> Iterator[None]:
    """What stands in for what, while this world is used; and small limits, so that they are met with."""
    chance = Random(f"entropy {plan.seed}")
    changes: list[Change] = [
        *small_limits(plan, serving),
        (serving, "CONSENSUS", Watched(watched(vars(serving)["CONSENSUS"]))),
        (entropy, "_kernel_random", chance.randbytes),
        (keys, "ec", drawn.Curves(chance)),
        (keys, "PrivateKey", drawn.Boxes(chance)),
        *drawn.certificates(),
        # Scripts are stopped by no clock: how long one takes here says nothing.
        *((module, "time", _StandingClock) for module in (quickjs, script_line, script_worker)),
    ]
    if plan.crypto != "real":
        changes += [(module, "TlsContext", stand_in_tls.Context) for module in (enclave_core, channels, joining)]
        changes += platform.signatures()
    with patched(changes):
        yield
