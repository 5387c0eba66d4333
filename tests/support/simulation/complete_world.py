"""The complete world: whole enclaves, as hosts run them.

Attestation, joins, channels, sessions, HTTP and the link's bytes are the product's. Hosts are made of lists, and carry bytes of streams;
what a hostile network does with them is done to bytes. With `--crypto real` everything is OpenSSL's; otherwise TLS (`stand_in_tls`) and the
signatures of ledgers and attestation documents (`platform`) are stand-ins. X.509, and the ECDSA in it, and AES-GCM are real in both; nodes'
keys are drawn from the seed.
"""

from base64 import b64decode
from collections import deque
from random import Random
from typing import Any, Final

from nacl.public import SealedBox

from ledgerd.enclave import boundary
from ledgerd.enclave.boundary import CLIENT, OUTBOUND, PEER
from ledgerd.enclave.consensus.core import Retirement
from ledgerd.enclave.core import Enclave
from ledgerd.enclave.joining import ATTEMPTS_MAX
from ledgerd.enclave.ledger_secrets import BOX
from ledgerd.enclave.outbound import HttpClient
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet, read_public
from ledgerd.ledger.ids import FIRST_VIEW
from ledgerd.ledger.receipt import VerifiedReceipt, verify_cose
from ledgerd.node.simulator.nsm import SimulatedNsm
from support.script_workers import ScriptWorkers, run_wanted
from support.simulation import platform, stand_in_tls
from support.simulation.application import app
from support.simulation.clients import Asked, Client
from support.simulation.complete_seams import Watched
from support.simulation.disk import Report, flip
from support.simulation.elections import WatchedConsensus
from support.simulation.ledgers import boxes_agree, secrets_follow_log
from support.simulation.members import Member, consortium, what_is_decided_is_done
from support.simulation.plan import REKEY, Plan
from support.simulation.service_world import ServiceWorld, document, new_service
from support.simulation.violation import Violation
from support.simulation.world import Event, Node

PCRS: Final = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
_BOOT_STEPS: Final = 400
_TOO_YOUNG: Final = "refused by rule 'age'"
_LAG_SECONDS: Final = 55.0  # a document may be 60 s younger than now, by the clock of who judges it; some of it is the way's


class Dial:
    """One connection of a joiner, and whether it could lead to anything.

    Attributes:
        target: Whom it leads to.
        is_hindered: That node was gone, stopped or cut off at some moment.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.is_hindered = False


class CompleteNode(Node):
    """An enclave and its host. It is among the world's nodes once it serves; before, it joins.

    Attributes:
        told: Whom it was told to ask when it joined.
        dials: Its last connections, while it joins.
    """

    def __init__(self, world: "CompleteWorld", name: str, told: str, document: bytes) -> None:
        super().__init__(name, "", world.rate())
        self.began, self.clock_began = world.time, self.clock
        self.told = told
        self.dials: deque[Dial] = deque(maxlen=ATTEMPTS_MAX)
        self.enclave = Enclave(app, self.clock)
        instance_id, enclave_id = f"i-{int(name[1:]):017x}", f"enc{int(name[1:]):016x}"
        self.nsm = SimulatedNsm(world.root, PCRS, instance_id=instance_id, enclave_id=enclave_id, clock=lambda: platform.BEGAN + world.time)
        self.nsm._chain = platform.chain(instance_id, enclave_id, world.plan.crypto)
        self.inbox: list[Any] = [boundary.Configured(document)]
        self.streams: dict[int, tuple[Any, int]] = {}
        self.questions: deque[tuple[Any, int]] = deque()
        self.notices: dict[str, str] = {}
        self.next_stream = 1
        self.scripts: ScriptWorkers | None = None

    @property
    def serving(self) -> Any:
        """What serves, from then on."""
        return self.enclave._serving

    def open_stream(self, end: Any, far: int, kind: int) -> int:
        """Somebody connects; the stream's number here."""
        stream = self.next_stream
        self.next_stream += 1
        self.streams[stream] = (end, far)
        self.inbox.append(boundary.Opened(stream, kind, "simulation"))
        return stream


class Line:
    """A client's connection to one node."""

    def __init__(self, world: "CompleteWorld", node: CompleteNode, client: Client | Member) -> None:
        self.client = client
        self.node = node
        self.numbers: deque[int] = deque()
        context: Any = world.tls.for_dialled()
        self.http = HttpClient(context, f"{node.name}.rpc:1", lambda chain: None)
        self.stream = node.open_stream(self, 0, CLIENT)

    def flush(self) -> None:
        """Hand over what waits."""
        data = self.http.take_output()
        if data and self.stream in self.node.streams:
            self.node.inbox.append(boundary.Received(self.stream, data))


class CompleteWorld(ServiceWorld):
    """Whole enclaves and their clients.

    Attributes:
        made: All nodes that ever were, those that never served, too.
        member: Who has the ledger's secret changed; None where nobody does.
    """

    is_bytes = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        Watched.world = self
        self.tls: Any = TlsContext if plan.crypto == "real" else stand_in_tls.Context
        self.root = platform.root()
        self.joining: dict[str, CompleteNode] = {}
        self.lines: dict[tuple[str, str], Line] = {}
        self.made: list[CompleteNode] = []
        self.member = Member() if REKEY in plan.faults else None
        self.registry.winners[FIRST_VIEW] = "n1"
        self._configure("n1", "", new_service("secp256r1", open_at_nodes=1, **(consortium() if self.member is not None else {})))
        self._until(lambda: "n1" in self.nodes and self.nodes["n1"].shadow.commit > 0)
        self.certificate = self.nodes["n1"].notices["service_certificate"]
        for number in range(2, plan.nodes + 1):
            self.do_join(f"n{number}", "n1")
            self._until(lambda: not self.joining)
        self._until(lambda: all(node.shadow.commit >= self.nodes["n1"].shadow.commit > 0 for node in self.up()))

    def _until(self, condition: Any) -> None:
        for _ in range(_BOOT_STEPS):
            if condition():
                return
            self.do_pass(0.02)
            self.rest()
        raise Violation("ServiceBegins", "a service on a good network does not begin")

    def _configure(self, name: str, told: str, mode: dict[str, Any]) -> None:
        configured = document(name, [self.root.certificate_pem], **mode)
        node = self.joining[name] = CompleteNode(self, name, told, tables.encode(configured))
        self.made.append(node)
        self.wake(node)

    def begins_to_serve(self, core: WatchedConsensus) -> None:
        """An enclave is about to have its first entry."""
        node = next(node for node in self.joining.values() if node.enclave._keys.id == core.node_id)
        node.node_id = core.node_id
        node.core = core
        node.watch(self.registry, self.judge)
        del self.joining[node.name]
        self.add(node)

    # What a node does.

    def arrive(self, node: CompleteNode, sender: CompleteNode, packet: Any) -> None:
        near, far, event = packet
        if far in node.streams:
            if type(event) is boundary.Closed:
                del node.streams[far]
            node.inbox.append(event)
        elif sender.streams.get(near) == (node, far):
            # Nobody is there any more, though whoever sent it was not told: TCP answers with a reset.
            del sender.streams[near]
            sender.inbox.append(boundary.Closed(near))

    def stored(self, node: CompleteNode, report: Report) -> None:
        node.inbox.append(boundary.Stored(*report))

    def promised(self, node: CompleteNode, packet: Any) -> None:
        self._carry(node, *packet)

    def fetched(self, node: CompleteNode, request: int, entries: list[bytes]) -> None:
        node.inbox.append(boundary.Fetched(request, entries))

    def broken(self, node: CompleteNode, other: CompleteNode) -> None:
        for stream, (end, _) in list(node.streams.items()):
            if end is other:
                self._close(node, stream)
                node.inbox.append(boundary.Closed(stream))

    def crashed(self, node: CompleteNode) -> None:
        """Its connections break."""
        for stream in list(node.streams):
            self._close(node, stream)

    def do_pass(self, seconds: float) -> None:
        """Time passes for those that join, too."""
        for node in self.joining.values():
            node.clock += seconds
        super().do_pass(seconds)
        for node in list(self.joining.values()):
            self._look_at_the_way(node)
            self.time_passed(node)

    def wake(self, node: CompleteNode) -> None:
        enclave = node.enclave
        node.due = None
        enclave.tick(node.clock)
        events, node.inbox = node.inbox, []
        if events:
            enclave.receive(boundary.decode_events(boundary.encode_events(events)))
        while True:
            ready = enclave.ready()
            if not ready.is_empty():  # else an enclave sends nothing
                self._obey(node, boundary.decode_ready(boundary.encode_ready(ready)))
            jobs = enclave.jobs()
            if not node.is_up or not (jobs or (self.member is not None and run_wanted(node, node.clock))):
                break
            for job in jobs:
                try:
                    result: object = job.work(node.nsm)
                except Exception as error:
                    result = error
                enclave.finished(job.number, result)
        if node.serving is not None and node.is_up:
            self.judge.look(node)
            if self.member is not None:
                secrets_follow_log(node)

    def next_wakeup(self, node: CompleteNode) -> float:
        wakeup = node.enclave.next_wakeup()
        pool = node.enclave.scripts
        return wakeup if pool is None else min(wakeup, pool.next_wakeup())

    def has_news(self, node: CompleteNode) -> bool:
        return bool(node.inbox)

    def _obey(self, node: CompleteNode, ready: boundary.Ready) -> None:
        self.store(node, ready)
        for stream, data in ready.peer_bytes:
            if any(waiting[0] == stream for _, waiting in node.promises):
                node.promises.append((node.promises[-1][0], (stream, data)))  # a stream's bytes stay in their order
            else:
                self._carry(node, stream, data)
        for promise in ready.once_stored:
            self.promise(node, promise)
        for stream, data in ready.client_bytes:
            self._carry(node, stream, data)
        for connect in ready.connects:
            self._connect(node, connect)
        for stream in ready.closes:
            self._close(node, stream)
        for fetch in ready.fetches:
            node.questions.append((boundary.Fetch(*fetch), self.entries_asked(node, fetch)))
        node.notices.update(dict(ready.notices))
        if ready.stop is not None:
            self._stops(node, ready.stop)

    def _stops(self, node: CompleteNode, status: int) -> None:
        """An enclave ends.

        It may when it is removed for good. A joiner may give up as well, since it can only wait for somebody who does not come: when each
        of its last `ATTEMPTS_MAX` connections could lead to nothing, and the node that it was told to ask, which would know of a new
        primary, was among those that it tried. The first of them may have led somewhere: to an answer, from which on attempts are counted
        anew, and then no further. Or whom it asks has a clock that is a minute off, and takes its document for one of another time.
        There is no other reason: no honest service refuses an honest joiner.

        Raises: Violation: It has no such reason.
        """
        reason = node.notices.get("refused", "")
        if node.name in self.joining:
            self._look_at_the_way(node)
            tried = list(node.dials)
            is_patient = len(tried) == ATTEMPTS_MAX and any(dial.target == node.told for dial in tried)
            if status == 1 and _TOO_YOUNG in reason and tried and abs(self._lag(tried[-1].target)) > _LAG_SECONDS:
                self.faults["joiner refused by a clock that stood"] += 1
            elif status != 1 or not reason.startswith("gave up after") or not is_patient or not all(dial.is_hindered for dial in tried[1:]):
                ways = " ".join(f"{dial.target}{'' if dial.is_hindered else ' (open)'}" for dial in tried)
                raise Violation("NobodyStops", f"{node.name}, which joins, stops with {status}: {reason}; told to ask {node.told}; {ways}")
            else:
                self.faults["joiner gives up"] += 1
        elif status != 0 or node.core.retirement is not Retirement.RETIRED_COMMITTED:
            raise Violation("NobodyStops", f"{node.name} stops with {status}: {reason}")
        node.is_up = False
        self.crashed(node)  # a joiner while it is one: its connections are not yet the network's
        self.joining.pop(node.name, None)

    def _lag(self, name: str) -> float:
        """How many seconds a node's clock has lost since the node began."""
        node = self.nodes[name]
        passed: float = self.time - node.began - (node.clock - node.clock_began)
        return passed

    # Wires.

    def _connect(self, node: CompleteNode, connect: boundary.Connect) -> None:
        name, _, door = connect.host.partition(".")
        target = self.nodes.get(name)
        if node.name in self.joining:
            node.dials.append(Dial(name))
            self._look_at_the_way(node)
        if target is None or not target.is_up or (node.name, name) in self.network.cut:
            node.inbox.append(boundary.Closed(connect.stream))
            return
        stream = target.open_stream(node, connect.stream, PEER if door == "peer" else CLIENT)
        node.streams[connect.stream] = (target, stream)
        node.inbox.append(boundary.Opened(connect.stream, OUTBOUND, connect.host))

    def _look_at_the_way(self, node: CompleteNode) -> None:
        """Note whether a joiner's connection can lead to anything just now."""
        if node.dials:
            dial = node.dials[-1]
            target = self.nodes.get(dial.target)
            is_cut = (node.name, dial.target) in self.network.cut
            dial.is_hindered |= target is None or not target.is_up or target.is_paused or is_cut

    def _carry(self, node: CompleteNode, stream: int, data: bytes) -> None:
        end, far = node.streams.get(stream, (None, 0))
        if isinstance(end, Line):
            self._answers(end, data)
        elif end is not None:
            self._post(node, stream, end, boundary.Received(far, data))

    def _post(self, node: CompleteNode, near: int, end: CompleteNode, event: Any) -> None:
        far = event.stream
        if node.name in self.joining or end.name in self.joining:  # what joins is not the network's to break: it would begin again
            if far in end.streams:
                end.inbox.append(event)
        else:
            self.network.post((node.name, end.name), (near, far, event))

    def _close(self, node: CompleteNode, stream: int) -> None:
        end, far = node.streams.pop(stream, (None, 0))
        if isinstance(end, Line):
            self.lines.pop((end.client.name, node.name), None)
            if not end.numbers:
                return
            if isinstance(end.client, Member):
                end.client.give_up()
            elif end.client.want is not None:
                self.clients.hang_up(end.client.name)
        elif end is not None and far in end.streams:
            self._post(node, stream, end, boundary.Closed(far))

    def _answers(self, line: Line, data: bytes) -> None:
        for answer in line.http.received(data):
            number = line.numbers.popleft()
            if isinstance(line.client, Member):
                line.client.answered(answer.status, answer.headers, answer.body)
                continue
            self.clients.answered(line.client.name, number, line.node.name, answer.status, answer.headers, answer.body)
        line.flush()

    def send(self, client: Client, name: str, asked: Asked) -> bool:
        node = self.nodes.get(name)
        if node is None or not node.is_up:
            return False
        self._ask(client, node, client.number, asked)
        return True

    def _ask(self, client: Client | Member, node: CompleteNode, number: int, asked: Asked) -> None:
        line = self.lines.get((client.name, node.name))
        if line is None or not line.http.reusable:
            line = self.lines[client.name, node.name] = Line(self, node, client)
        line.numbers.append(number)
        line.http.request(asked.method, asked.path, asked.headers, asked.body)
        line.flush()

    def hung_up(self, client: str) -> None:
        """Its connections end."""
        for (name, _), line in list(self.lines.items()):
            if name == client and line.numbers:
                self.lines.pop((name, line.node.name))
                line.node.streams.pop(line.stream, None)
                line.node.inbox.append(boundary.Closed(line.stream))

    # Events that only bytes can have.

    def do_corrupt(self, source: str, target: str, where: int) -> None:
        """A byte on its way is changed."""
        self._change(source, target, "corruption", lambda data: flip(data, where, where))

    def do_shorten(self, source: str, target: str, where: int) -> None:
        """Bytes on their way are cut short."""
        self._change(source, target, "truncation", lambda data: data[: where % len(data)])

    def _change(self, source: str, target: str, fault: str, change: Any) -> None:
        packet = self.network.peek((source, target))
        if packet is not None and type(packet[2]) is boundary.Received:
            near, far, (_, data) = packet
            changed = change(data)
            if changed:
                self.network.put_back((source, target), (near, far, boundary.Received(far, changed)))
                self.faults[fault] += 1

    def do_astray(self, source: str, target: str, other: str) -> None:
        """Bytes arrive at another node, or come back to the one that sent them."""
        packet = self.network.peek((source, target))
        node = self._node(other)
        if packet is None or node is None or type(packet[2]) is not boundary.Received:
            return
        streams = sorted(stream for stream, (end, _) in node.streams.items() if isinstance(end, CompleteNode) and end.name in self.nodes)
        if streams:
            self.faults["reflection" if other == source else "misdelivery"] += 1
            self.inputs += 1
            node.inbox.append(boundary.Received(streams[0], packet[2].data))
            self.wake(node)

    def byte_event(self, chance: Random, pair: tuple[str, str]) -> Event:
        """A fault of bytes, on this way."""
        draw = chance.random()
        if draw < 0.35:
            return ("corrupt", *pair, chance.randrange(1 << 16))
        if draw < 0.6:
            return ("shorten", *pair, chance.randrange(1 << 16))
        return ("astray", *pair, chance.choice([pair[0], *self.nodes]))

    # Governance.

    def do_rekey(self, name: str, prefer: str) -> None:
        """The member goes on with a change of the ledger's secret, by a proposal or a vote; it waits no longer for what it asked before."""
        node = self._node(name)
        if node is None or self.member is None:
            return
        self.hung_up(self.member.name)
        if self.member.asked is not None:
            self.member.give_up()
        self.faults["rekey: asked"] += 1
        self._ask(self.member, node, 0, self.member.next(prefer))
        self.inputs += 1
        self.wake(node)

    def rekey_events(self, node: CompleteNode, chance: Random) -> list[Event]:
        """The member has the secret changed there; nothing where nobody does."""
        return [] if self.member is None else [("rekey", node.name, chance.choice(["", "", "committed"]))]

    # Membership.

    def do_join(self, name: str, target: str) -> None:
        """A new enclave asks to be admitted, and is, by itself."""
        if name in self.nodes or name in self.joining or target not in self.nodes:
            return
        join = {"target": {"host": f"{target}.rpc", "port": 1}, "service_certificate": self.certificate}
        self._configure(name, target, {"mode": "join", "join": join})

    def retirement(self, node: Any, leavers: list[str]) -> WriteSet:
        """What governance writes to retire nodes: their records, as they are, with another status."""
        records = node.serving._replica.store.map(tables.NODE_INFO)
        writes: dict[bytes, bytes | None] = {}
        for leaver in leavers:
            key = self.nodes[leaver].node_id.encode()
            writes[key] = tables.encode({**tables.decode(records.get(key)), "status": tables.RETIRED})
        return {tables.NODE_INFO: writes}

    def grow_events(self, chance: Any, count: int) -> list[Event]:
        """New nodes ask to join."""
        primary = self.primary()
        if primary is None or primary.is_paused or self.joining:
            return []
        first = len(self.nodes) + 1
        return [("join", f"n{first + number}", primary.name) for number in range(count)]

    # The end.

    def verify_receipt(self, receipt: bytes) -> VerifiedReceipt:
        key = self.nodes["n1"].serving.status.service.identity.public_key()
        return verify_cose(receipt, key if self.plan.crypto == "real" else platform.verifying(key))

    @property
    def secret(self) -> bytes:
        """The ledger's."""
        secret: bytes = self.nodes["n1"].serving.status.secrets()[0][1]
        return secret

    def announced(self, data: bytes) -> bytes:
        keys = {node.enclave._keys.id: node.enclave._keys for node in self.made if node.enclave._keys is not None}
        boxes = tables.decode(read_public(data).writes[tables.ENCRYPTED_LEDGER_SECRETS][tables.SINGLETON] or b"{}")
        secret: bytes = boxes_agree(
            {name: SealedBox(keys[name].encryption).decrypt(b64decode(box[-1][BOX])) for name, box in boxes.items()}
        )
        return secret

    def demand(self) -> int | None:
        target = super().demand()
        primary = self.primary()
        if self.member is not None and primary is not None:
            self.member.give_up()
            self.do_rekey(primary.name, "committed")
        return target

    def demand_answer(self, primary: Any) -> None:
        super().demand_answer(primary)
        if self.member is not None:
            self.decided = len(self.member.told)
            self.do_rekey(primary.name, "committed")

    def unanswered(self) -> str:
        if self.member is not None and len(self.member.told) <= self.decided:
            return f"the member's vote changes nothing: {self.member.open}, {self.member.asked}"
        return super().unanswered()

    def judge_end(self) -> None:
        super().judge_end()
        if self.member is not None:
            for told in self.member.told:
                what_is_decided_is_done(told, self.registry)
            self.faults["rekey: announced"] += sum(fact.meaning.rekeys for fact in self.registry.facts.values())
            self.faults["rekey: final"] += sum(
                self.registry.facts[view, seqno].meaning.rekeys for seqno, view in enumerate(self.registry.final) if seqno
            )
