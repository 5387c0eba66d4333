"""A consensus cluster under random loss, delay, repetition, reordering, partitions, slow disks, drifting clocks, crashes, changes of nodes.

One seed decides everything, so a seed that fails fails again. For a longer run than the tests', with `tests` on the path:
`python -m support.consensus_simulation FIRST LAST STEPS`.
"""

import random
import sys
from collections import Counter

from ledgerd.enclave.consensus.core import Consensus, Retirement, Role, Settings
from support.consensus_cluster import Cluster, Member

# Small limits, so that batches, windows and fetches are met with within a few hundred entries.
SMALL = Settings(batch_entries=4, batch_bytes=400, flight_bytes=2_000, flight_messages=8, window_entries=12, window_bytes=1_500)


class Simulation:
    """One seed's run: each step is one event drawn at random; which events are likely is drawn once per seed."""

    def __init__(self, seed: int, core: type[Consensus] = Consensus) -> None:
        self.random = random.Random(seed)
        settings = SMALL if self.random.random() < 0.7 else Settings()
        if seed % 5 in (1, 2):  # no draw: seeds keep their meaning
            settings = settings._replace(unsigned_entries=(2_000, 3)[seed % 2], ahead_entries=(1, 2, 7, 128)[seed // 5 % 4])
        self.cluster = Cluster(settings, seed=seed, fetch_count=self.random.choice([3, 20, 500]), core=core)
        self.events: Counter[str] = Counter()
        self.joined = 1
        self.nodes_max = self.random.choice([2, 3, 3, 3, 4, 5])
        self.loss = self.random.choice([0, 0.02, 0.2])
        self.repeat = self.random.choice([0, 0.02, 0.2])
        self.shuffle = self.random.random() < 0.5
        self.partitions = self.random.choice([0.1, 0.2, 0.4])
        self.crashes = self.random.choice([0, 0.03])
        self.disk = self.random.choice([0.1, 0.5, 1])
        self.pace = self.random.choice([(0.02, 0.05), (0.05, 0.1), (0.05, 0.1, 0.4)])
        self.retirements = self.random.random() < 0.4
        self.cluster.start("n1")
        if self.random.random() < 0.7:
            while self.joined < self.nodes_max:
                self.grow()
            self.cluster.members["n1"].replicate(sign=True)
            self.cluster.run(0.3)

    def step(self) -> None:
        cluster = self.cluster
        draw = self.random.random()
        member = self.random.choice(cluster.up())
        if draw < 0.55 and cluster.packets:
            for _ in range(1 + len(cluster.packets) // 10):
                self.deliver()
        elif draw < 0.68 and self.random.random() < self.disk:
            self.event("store")
            cluster.store(member.node_id)
        elif draw < 0.72:  # one clock runs ahead
            cluster.tick(member.node_id, self.random.choice(self.pace))
        elif draw < 0.83:
            seconds = self.random.choice(self.pace)
            for other in cluster.up():
                cluster.tick(other.node_id, seconds * (0.9 + 0.2 * self.random.random()))
        elif draw < 0.965:
            self.write()
        elif draw < 0.972:
            self.grow()
        elif draw < 0.977 and self.retirements:
            self.retire()
        elif self.random.random() < self.partitions:
            self.event("partition")
            cluster.heal()
            primary = cluster.primary()
            if primary is not None and self.random.random() < 0.5:
                cluster.isolate(primary.node_id)
            elif self.random.random() < 0.5:
                names = list(cluster.members)
                self.random.shuffle(names)
                cut = self.random.randrange(len(names) + 1)
                cluster.cut_between(names[:cut], names[cut:])
                if self.random.random() < 0.3:  # one way only
                    cluster.cut = {pair for pair in cluster.cut if pair[0] in names[:cut]}
        elif self.random.random() < self.crashes and self.may_crash(member):
            self.event("crash")
            member.down = True
        cluster.check()

    def event(self, name: str) -> None:
        self.events[name] += 1

    def deliver(self) -> None:
        packets = self.cluster.packets
        if not packets:
            return
        index = self.random.randrange(len(packets)) if self.shuffle else 0
        draw = self.random.random()
        if draw < self.loss:
            self.event("loss")
            del packets[index]
            return
        if draw < self.loss + self.repeat:
            self.event("repetition")
            packets.insert(self.random.randrange(len(packets) + 1), packets[index])
        self.cluster.deliver(index)

    def write(self) -> None:
        # A deposed primary does not know it yet: it too must take writes.
        primaries = [m for m in self.cluster.up() if m.core.role is Role.PRIMARY]
        if not primaries:
            return
        primary = self.random.choice(primaries)
        draw = self.random.random()
        if draw < 0.5:
            self.event("write")
            for _ in range(self.random.randrange(1, 8)):
                primary.replicate("x" * self.random.randrange(60))
        elif draw < 0.9:
            self.event("signature")
            primary.replicate(sign=True)
        else:
            self.event("read")
            self.cluster.ask(primary.node_id, f"read {self.events['read']}")
        if self.random.random() < 0.7:
            self.cluster.pump(primary.node_id)

    def grow(self) -> None:
        primary = self.cluster.primary()
        if primary is None or self.joined >= self.nodes_max:
            return
        self.event("growth")
        count = min(self.random.choice([1, 1, 2]), self.nodes_max - self.joined)
        names = [f"n{len(self.cluster.members) + 1 + i}" for i in range(count)]
        self.joined += count
        for name in names:
            self.cluster.join(name)
        nodes = primary.core.configurations[-1].nodes
        primary.replicate("grow", nodes=[*nodes, *names])
        self.cluster.pump(primary.node_id)

    def retire(self) -> None:
        """Remove a node, or record those whose removal is complete; stop those that nobody needs any more."""
        cluster = self.cluster
        for member in cluster.up():
            if member.core.retirement is Retirement.RETIRED_COMMITTED:
                self.event("retired")
                member.down = True
        primary = cluster.primary()
        if primary is None:
            return
        core = primary.core
        nodes = core.configurations[-1].nodes
        if core._leaving and len(core.configurations) == 1:
            self.event("record")
            primary.replicate("record", removed=core._leaving)
        elif len(nodes) > 1:
            left = nodes - {self.random.choice(sorted(nodes))}
            if len([node for node in left if cluster.members[node].down]) * 2 >= len(left):
                return  # it would remove the service
            self.event("retirement")
            primary.replicate("shrink", nodes=left)
            self.joined -= self.random.random() < 0.5
        cluster.pump(primary.node_id)

    def may_crash(self, member: Member) -> bool:
        """Whether every active configuration, anybody's, keeps a majority without it."""
        down = {m.node_id for m in self.cluster.members.values() if m.down} | {member.node_id}
        known = {c.nodes for m in self.cluster.up() for c in m.core.configurations}
        return all(len(nodes - down) * 2 > len(nodes) for nodes in known)

    def heal(self) -> None:
        """On a good network a primary must emerge, everybody must get its log, and something new must commit."""
        cluster = self.cluster
        cluster.heal()
        for _ in range(6):
            cluster.run(1.0, step=0.05)
            primary = cluster.primary()
            if primary is None:
                continue
            primary.replicate("after the heal")
            seqno = primary.replicate(sign=True)
            cluster.pump(primary.node_id)
            cluster.run(0.5, step=0.05)
            # Who was in nobody's configuration when its author lost is still waiting to be trusted.
            wanted = set().union(*(c.nodes for c in primary.core.configurations))
            members = [m for m in cluster.up() if m.node_id in wanted]
            if all(m.core.commit_seqno >= seqno for m in members):
                assert {b"".join(m.disk) for m in members} == {b"".join(primary.disk)}
                assert all(m.disk[:seqno] == m.machine.log[:seqno] for m in members)
                return
        raise AssertionError("no progress after the network healed:\n" + "\n".join(cluster.trace[-60:]))


def simulate(seed: int, steps: int, core: type[Consensus] = Consensus) -> Simulation:
    """Run one seed to its end; raises AssertionError with the last events where an invariant breaks or progress does not resume."""
    simulation = Simulation(seed, core)
    try:
        for number in range(steps):
            simulation.step()
            if number % 50 == 0:
                simulation.cluster.check_logs()
        simulation.heal()
        simulation.cluster.check_logs()
        assert not any("stops" in line for line in simulation.cluster.trace), "an honest node stopped itself"
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(simulation.cluster.trace[-40:])) from error
    return simulation


def main(first: int, last: int, steps: int) -> None:
    """Run seeds `first` to `last - 1` and print what happened in them."""
    total: Counter[str] = Counter()
    for seed in range(first, last):
        total += simulate(seed, steps).events
    print(dict(total))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
