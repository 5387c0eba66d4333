"""What the commands of the consensus scenarios mean (`tests/enclave/consensus/*.txt`); they run on the cores that run in the enclave.

`cluster N...`            the first node starts a service, the others join and are trusted; quiet
`start N`, `join N...`    the first node of a service; nodes with nothing
`configure P N...`        P, as primary, appends a configuration; `record P N...` that N... are removed for good
`put P [COUNT]`, `sign P` P appends entries, or a signature entry; `ask P TOKEN`: a linearizable read arrives at P
`deliver A B [COUNT]`     the oldest messages from A reach B (all that are on their way, without COUNT); `drop A B`: they do not
`store N [COUNT]`         N's disk ends its oldest writes
`settle`                  everything is delivered and stored, until nothing is left to do; `quiet`: the same, and nothing is printed
`tick N MS`               only N sees that MS more have passed; `run MS`: all do, on a good network
`isolate N`, `cut A... | B...`, `heal`, `crash N`
`break A B`               A's channel to B breaks, and A is told; what A has sent on it is lost
`forge A B SEQNO`         B acknowledges to A what it has up to SEQNO, with the hash of another log
`acknowledge A B SEQNO`   the same, with the right hash; `refuse A B`: B refuses everything; `flow A B...`: how A feeds them
`lose N`                  N's disk loses what it is given from now on, and says nothing
`state [N...]`            a line a node
"""

from hashlib import sha256

from ledgerd.enclave.consensus.core import Consensus, Settings
from ledgerd.enclave.consensus.messages import AppendAccepted, AppendRefused
from ledgerd.ledger.ids import NodeId, Seqno, View
from support.consensus_cluster import Cluster, describe_member


class Scenario:
    """One file's run.

    Args:
        core: The class under test, or one with a planted bug.
    """

    def __init__(self, core: type[Consensus] = Consensus) -> None:
        self.core = core
        self.cluster = Cluster(core=core)

    def handle(self, lines: list[str]) -> str:
        self.cluster.trace.clear()
        for line in lines:
            name, *words = line.split()
            getattr(self, f"do_{name}")(*words)
            self.cluster.check()
        self.cluster.check_logs()
        return "\n".join(self.cluster.trace)

    def do_settings(self, *words: str) -> None:
        changes = {name: type(getattr(Settings(), name))(float(value)) for name, _, value in (word.partition("=") for word in words)}
        self.cluster = Cluster(Settings(**changes), core=self.core)

    def do_start(self, node: str) -> None:
        self.cluster.start(node)

    def do_join(self, *nodes: str) -> None:
        for node in nodes:
            self.cluster.join(node)

    def do_cluster(self, *nodes: str) -> None:
        self.do_start(nodes[0])
        self.do_join(*nodes[1:])
        if len(nodes) > 1:
            self.do_configure(nodes[0], *nodes)
            self.do_sign(nodes[0])
        self.do_run("300")
        self.cluster.trace.clear()

    def do_configure(self, node: str, *nodes: str) -> None:
        self.cluster.members[node].replicate(nodes=nodes)
        self.cluster.pump(node)

    def do_record(self, node: str, *nodes: str) -> None:
        self.cluster.members[node].replicate(removed=nodes)
        self.cluster.pump(node)

    def do_put(self, node: str, count: str = "1") -> None:
        for _ in range(int(count)):
            self.cluster.members[node].replicate("value")
        self.cluster.pump(node)

    def do_sign(self, node: str) -> None:
        self.cluster.members[node].replicate(sign=True)
        self.cluster.pump(node)

    def do_ask(self, node: str, token: str) -> None:
        self.cluster.ask(node, token)
        self.cluster.pump(node)

    def do_deliver(self, sender: str, to: str, count: str = "1000") -> None:
        for _ in range(int(count)):
            index = self._first(sender, to)
            if index is None:
                return
            self.cluster.deliver(index)

    def do_drop(self, sender: str, to: str) -> None:
        while (index := self._first(sender, to)) is not None:
            del self.cluster.packets[index]

    def _first(self, sender: str, to: str) -> int | None:
        return next((i for i, p in enumerate(self.cluster.packets) if (p.sender, p.to) == (sender, to)), None)

    def do_store(self, node: str, count: str = "1000") -> None:
        for _ in range(min(int(count), len(self.cluster.members[node].writes))):
            self.cluster.store(node)

    def do_settle(self) -> None:
        self.cluster.settle()

    def do_quiet(self) -> None:
        self.cluster.settle()
        self.cluster.trace.clear()

    def do_tick(self, node: str, milliseconds: str) -> None:
        self.cluster.tick(node, int(milliseconds) / 1000)

    def do_run(self, milliseconds: str) -> None:
        self.cluster.run(int(milliseconds) / 1000)
        # Heartbeats would fill pages.
        self.cluster.trace[:] = [line for line in self.cluster.trace if "->" not in line]

    def do_isolate(self, node: str) -> None:
        self.cluster.isolate(node)

    def do_cut(self, *words: str) -> None:
        bar = words.index("|")
        self.cluster.cut_between(words[:bar], words[bar + 1 :])

    def do_heal(self) -> None:
        self.cluster.heal()

    def do_crash(self, node: str) -> None:
        self.cluster.members[node].down = True

    def do_break(self, node: str, peer: str) -> None:
        self.do_drop(node, peer)
        self.cluster.members[node].core.cut(NodeId(peer))
        self.cluster.pump(node)

    def do_forge(self, node: str, peer: str, seqno: str) -> None:
        core = self.cluster.members[node].core
        core.receive(NodeId(peer), AppendAccepted(core.view, 0, Seqno(int(seqno)), sha256(b"another log").digest()))
        self.cluster.pump(node)

    def do_refuse(self, node: str, peer: str) -> None:
        core = self.cluster.members[node].core
        core.receive(NodeId(peer), AppendRefused(core.view, 0, core.last_seqno, View(0), Seqno(0)))
        self.cluster.pump(node)

    def do_acknowledge(self, node: str, peer: str, seqno: str) -> None:
        core = self.cluster.members[node].core
        digest = core._log.digest(Seqno(int(seqno)))
        assert digest is not None
        core.receive(NodeId(peer), AppendAccepted(core.view, 0, Seqno(int(seqno)), digest))
        self.cluster.pump(node)

    def do_lose(self, node: str) -> None:
        member = self.cluster.members[node]
        member.writes.clear()
        member.losing = True

    def do_flow(self, node: str, *peers: str) -> None:
        for peer in peers:
            self.cluster.note(f"{node} feeds {peer}: {self.cluster.members[node].core._peers[NodeId(peer)].flow.value}")

    def do_state(self, *nodes: str) -> None:
        for node, member in self.cluster.members.items():
            if not nodes or node in nodes:
                self.cluster.note(describe_member(member))
