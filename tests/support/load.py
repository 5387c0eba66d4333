"""The SDK's own decisions under virtual time: many writers at a `support.cluster.Cluster`, each driving `client.attempts`.

What would be sockets are the cluster's sessions; what the SDK decides (which node, when again, when to give up) is its own code. What each
request cost is kept: attempts, and virtual seconds.
"""

import random
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from ledgerd.network.client.attempts import Attempting, Lost, Pause, Received, Result, Send, Steps, Trouble, submission
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.learning import learn_nodes
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import Answer, Budget, Call
from support.cluster import Client, Cluster, Host

THINK_SECONDS = 0.02  # between a writer's requests: virtual time stands still while anybody has something to do
BUDGET = Budget(seconds=3.0, attempts=3)


class Done(NamedTuple):
    """One request that succeeded."""

    key: str
    transaction_id: str
    attempts: int
    seconds: float


@dataclass
class _Writer:
    """One client: one request after the other."""

    number: int
    nodes: Nodes
    steps: Steps | None = None
    count: int = 0
    began: float = 0.0
    attempts: int = 0
    sessions: dict[str, Client] = field(default_factory=dict)
    sent: tuple[Send, Client, int] | None = None
    until: float = 0.0


class Load:
    """Writers that never stop asking; a watcher of the cluster.

    Args:
        urls: Nodes that each writer is told of at first; more it must learn.
        budget: What each request may cost. `failures` has those that failed within it.
    """

    def __init__(self, cluster: Cluster, urls: list[str], writers: int = 3, budget: Budget = BUDGET) -> None:
        self.cluster = cluster
        self.done: list[Done] = []
        self.failures: list[str] = []
        self.is_stopping = False
        self.trace: list[str] = []
        source = random.Random(7)
        self._shared = Attempting(budget, lambda: cluster.now, source.random, lambda size: source.randbytes(size).hex())
        self._writers = [_Writer(number, Nodes(urls)) for number in range(writers)]
        cluster.watchers.append(self._step)

    @property
    def known(self) -> list[frozenset[str]]:
        """The nodes that each writer knows."""
        return [frozenset(writer.nodes.origins) for writer in self._writers]

    def stop(self) -> None:
        """Let every request come to its end, and begin none."""
        self.is_stopping = True
        self.cluster.until(lambda: all(writer.steps is None for writer in self._writers))
        self.cluster.watchers.remove(self._step)

    def _submit(self, call: Call, nodes: Nodes) -> Steps:
        """As `client.core` does it."""
        yield from learn_nodes(nodes, self._shared)
        return (yield from submission(call, nodes, self._shared, key=None, make_key=True, commit=True))

    def _step(self) -> bool:
        busy = False
        for writer in self._writers:
            busy |= self._advance(writer)
        return busy

    def _advance(self, writer: _Writer) -> bool:
        """Go on with one writer as far as it does not have to wait; False if there was nothing to do."""
        if writer.steps is None:
            if self.is_stopping or self.cluster.now < writer.until:
                return False
            writer.count += 1
            call = Call("PUT", f"/app/records/w{writer.number}-{writer.count}", b"value", {"content-type": "text/plain"})
            writer.steps = self._submit(call, writer.nodes)
            writer.began, writer.attempts = self.cluster.now, 0
            return self._drive(writer, None)
        if writer.sent is None:
            return self.cluster.now >= writer.until and self._drive(writer, None)
        send, session, answers = writer.sent
        if len(session.answers) > answers:
            answer = session.answers[-1]
            return self._drive(writer, Received(answer.status, answer.headers, answer.body))
        if session.is_closed or not session.host.alive or self.cluster.now >= writer.until:
            del writer.sessions[send.origin]
            return self._drive(writer, Lost(Trouble.CUT, "no answer"))
        return False

    def _drive(self, writer: _Writer, result: Result) -> bool:
        assert writer.steps is not None
        name = f"w{writer.number}-{writer.count}"
        writer.sent = None
        if result is not None:
            self.trace.append(f"{self.cluster.now:.3f} {name} {_shown(result)}")
        try:
            while True:
                step = writer.steps.send(result)
                if isinstance(step, Pause):
                    writer.until = self.cluster.now + step.seconds
                    return True
                if step.method != "GET":
                    writer.attempts += 1
                self.trace.append(f"{self.cluster.now:.3f} {name} {step.method} {step.path} -> {step.origin}")
                session = self._session(writer, step.origin)
                if session is not None:
                    break
                result = Lost(Trouble.NOT_SENT, "connection refused")
            writer.sent = (step, session, len(session.answers))
            writer.until = self.cluster.now + step.timeout
            session.start(step.method, step.path, step.body, **{key.replace("-", "_"): value for key, value in step.headers.items()})
        except StopIteration as stop:
            writer.until = self.cluster.now + THINK_SECONDS
            answer: Answer = stop.value
            self.done.append(Done(name, str(answer.transaction_id), writer.attempts, self.cluster.now - writer.began))
            writer.steps = None
        except ClientError as error:
            writer.until = self.cluster.now + THINK_SECONDS
            took = f"{writer.attempts} attempts, {self.cluster.now - writer.began:.2f} s"
            self.failures.append(f"{name} after {took}: {type(error).__name__}: {error}")
            writer.steps = None
        return True

    def _session(self, writer: _Writer, origin: str) -> Client | None:
        session = writer.sessions.get(origin)
        if session is None or session.is_closed or not session.host.alive:
            host = self._host(origin)
            if host is None:
                return None
            session = writer.sessions[origin] = self.cluster.client(host, self.cluster.user)
        return session

    def _host(self, origin: str) -> Host | None:
        name = str(urlsplit(origin).hostname).partition(".")[0]
        host = self.cluster.hosts.get(name)
        return host if host is not None and host.alive else None


def urls_of(cluster: Cluster, hosts: list[Host]) -> list[str]:
    """Addresses of hosts, as their nodes publish them."""
    return [f"https://{host.name}.rpc:{8001 + list(cluster.hosts).index(host.name)}" for host in hosts]


def _shown(result: Received | Lost) -> str:
    return f"{result.status} {result.body[:90]!r}" if isinstance(result, Received) else f"lost: {result.trouble.value}"
