"""Requests to answers: executed here or passed to the primary, and held until what the client asked for has happened.

Everything a client can be told is said from here. An answer leaves at once, or when its transaction is committed (`prefer: committed`),
or, for a read, when the primary has been confirmed by a majority after the read arrived; a rollback, a lost primary and a time limit
answer too.
Not here: what a request does (`enclave.execution`), making entries of writes (`enclave.replica`), whom to dial (`enclave.dialling`).
"""

import base64
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

from ledgerd.enclave import forwarding, refusals
from ledgerd.enclave.answers import Held, HeldAnswers
from ledgerd.enclave.channels import MESSAGE_SIZE_BYTES_MAX, Channels
from ledgerd.enclave.consensus.core import Consensus, LogEntry, Role
from ledgerd.enclave.endpoints import Deferred
from ledgerd.enclave.execution import ANSWER, FORWARD, SCRIPTED, Executor, Outcome
from ledgerd.enclave.forwarding import OUTSTANDING_MAX, Forwarded, RemoteReply
from ledgerd.enclave.leaving import Elsewhere
from ledgerd.enclave.prefer import NO_PREFERENCE, Prefer, parse_prefer
from ledgerd.enclave.receipts import leaf_of, make
from ledgerd.enclave.replica import Proposal, Replica, is_plain
from ledgerd.enclave.requests import COSE, Request, Response, new_tuple, with_id
from ledgerd.enclave.scripting import Scripting
from ledgerd.enclave.sessions import Sessions
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId

UNCOMMITTED_MAX: Final = 10_000  # CCF's `max_uncommitted_tx_count`: beyond it requests are refused, not queued
UNCOMMITTED_BYTES_MAX: Final = 256 << 20  # of entries in memory; the same for large ones
EXECUTED_MAX: Final = 1_000  # requests in one wake-up: tens of milliseconds, well under a heartbeat; the rest waits for the next one
EXECUTED_BYTES_MAX: Final = 256 << 10  # of their bodies: reading JSON that means harm costs 0.3 s a mebibyte, and one may be so large
ANSWERED_BYTES_MAX: Final = 8 << 20  # of answers in one wake-up: forty bytes can ask for a megabyte, and first the host takes what is there
ANSWERS_MAX: Final = 128  # to one commit, in one wake-up: whoever gets his asks on while the others' are printed; fewer wake too often
SEALED_TOGETHER: Final = 64  # writes: a call for each costs more, and hundreds are no longer in the processor's cache when their turn comes
QUEUED_MAX: Final = 10_000  # requests that wait to be executed
QUEUED_BYTES_MAX: Final = 64 << 20
QUEUED_TOGETHER: Final = 64  # beyond so many, those of strangers wait by themselves: anybody can send thousands at once
STRANGERS_MIN: Final = 32  # of whom the tables do not know, in each wake-up, however many others wait
CROWDED_SECONDS: Final = 1.0  # for which strangers hold back once somebody else has asked; where nobody else does, they need not
HELD_BYTES_MAX: Final = 24 << 20  # of answers to reads that wait for confirmation; less than a channel to a backup takes at one time
PARKED_MAX: Final = 1_000  # requests that wait for a primary
PARKED_BYTES_MAX: Final = 8 << 20
PARKED_SECONDS_MAX: Final = 2.0  # an election takes about one, by default
RETIRED_WAIT_SECONDS: Final = 1.0  # of a retired node, for what the next primary says of its last transactions
FORWARDED_SECONDS_MAX: Final = 30.0  # for the primary's answer, beyond what the client allowed for the commit itself

APPLIED: Final = ("preference-applied", "committed")  # RFC 7240: so that a client need not guess whether the node knows what it asked for
_APPLIED: Final = (APPLIED,)
_NEVER: Final = float("inf")

# First byte of every message on a channel.
REQUEST: Final = b"\x01"
REPLY: Final = b"\x02"

_NOT_PRIMARY: Final = (refusals.FORWARDED_TWICE.body, refusals.NOT_PRIMARY.body)

Propose = Callable[[WriteSet, bytes], LogEntry]
ProposePlain = Callable[[list[Proposal]], tuple[Seqno, list[bytes]]]
Defer = Callable[[object, Deferred], None]
FindReceipt = Callable[[TransactionId, Callable[[Response], None]], None]


class Parked(NamedTuple):
    """A request that waits until `deadline` for a primary, which is not to be `not_to`: that one was asked, and was none any more."""

    request: Request
    not_to: NodeId | None
    deadline: float


class Answering:
    """The requests of one node.

    Args:
        propose: Makes the next entry of writes that are already in the state.
        propose_plain: The same for many that are plain (`replica.is_plain`): gives the first seqno and the entries' bytes.
        defer: Finds an answer that takes longer, and gives it to `answer`.
        find_receipt: Makes the COSE receipt of a committed transaction from what is on the disk, and hands it over when it is there.
        log: Tells the operator.
        now_ms: Attested time, milliseconds since 1970.
        tell_time: Has the ledger say what time it is, if it has not for a while; what was written before must be entries.
    """

    def __init__(
        self,
        executor: Executor,
        scripting: Scripting,
        consensus: Consensus,
        replica: Replica,
        sessions: Sessions,
        channels: Channels,
        propose: Propose,
        propose_plain: ProposePlain,
        defer: Defer,
        find_receipt: FindReceipt,
        log: Callable[[str, str], None],
        now_ms: Callable[[], int],
        tell_time: Callable[[], None],
    ) -> None:
        self._executor = executor
        self._scripting = scripting
        self._consensus = consensus
        self._replica = replica
        self._sessions = sessions
        self._channels = channels
        self._propose = propose
        self._propose_plain = propose_plain
        self._defer = defer
        self._find_receipt = find_receipt
        self._log = log
        self._now_ms = now_ms
        self._tell_time = tell_time
        self._now = 0.0
        self._requests: deque[Request] = deque()
        self._strangers: deque[Request] = deque()  # requests of whom the tables do not know, where many wait; a session's stay in order
        self._crowded_until = 0.0
        self._queued_bytes = 0
        self._answered_bytes = 0  # in this wake-up
        self._held_bytes = 0  # of reads
        self._primary: NodeId | None = None  # when `tick` last looked
        self._writes = HeldAnswers()
        self._reads = HeldAnswers()
        self._undone: list[Held] = []  # writes rolled back here, while another node's log may still bring them back
        self._undone_until = _NEVER  # no later than the first deadline of those
        self._unconfirmed: list[Held] = []  # reads since the last round of confirmation began
        self._confirming: dict[Hashable, list[Held]] = {}
        self._next_token = 0
        self._receipt_data: dict[int, tuple[bytes, bytes]] = {}  # entry and claims of transactions whose receipt is wanted
        self._forwarded = Forwarded()
        self._parked: deque[Parked] = deque()  # for a primary that is not known yet
        self._parked_until = _NEVER  # the first deadline of those
        self._parked_bytes = 0
        self._elsewhere: Elsewhere | None = None  # on a retired node
        self._give_up_at = _NEVER

    @property
    def next_deadline(self) -> float:
        """When somebody has waited for too long, if nothing happens before: that moment or an earlier one."""
        return min(
            self._writes.next_deadline,
            self._reads.next_deadline,
            self._forwarded.next_deadline,
            self._undone_until,
            self._parked_until,
            self._give_up_at,
        )

    @property
    def is_retired(self) -> bool:
        """True after `retire`."""
        return self._elsewhere is not None

    @property
    def has_backlog(self) -> bool:
        """True if requests are left for the next wake-up, which should come at once."""
        return bool(self._requests or self._strangers) or self._scripting.has_finished or self.has_committed

    @property
    def has_committed(self) -> bool:
        """True if answers to what is committed are left for the next wake-up."""
        commit = self._consensus.commit_seqno
        return self._writes.has_committed(commit) or self._reads.has_committed(commit)

    # In.

    def add(self, requests: Iterable[Request]) -> None:
        """Queue requests that clients or backups sent here; refuse them where too many wait already."""
        queue, strangers = self._requests, self._strangers
        known: dict[str, bool] = {}
        for request in requests:
            lane, bytes_max = queue, QUEUED_BYTES_MAX
            if strangers or len(queue) >= QUEUED_TOGETHER:
                caller = request.caller_id
                if caller not in known:
                    known[caller] = self._sessions.knows(caller)
                if known[caller]:
                    bytes_max *= 2  # strangers may have used up the half
                    self._crowded_until = self._now + CROWDED_SECONDS
                else:
                    lane = strangers
            if len(lane) >= QUEUED_MAX or self._queued_bytes > bytes_max:
                self.answer(request.reply_to, refusals.TOO_MANY)
            else:
                lane.append(request)
                self._queued_bytes += len(request.body)

    def _let_strangers_in(self) -> None:
        """Have some of them wait with the others: as many as there is room for, and a few in any case."""
        most = QUEUED_TOGETHER if self._now < self._crowded_until else EXECUTED_MAX
        for _ in range(min(len(self._strangers), max(most - len(self._requests), STRANGERS_MIN))):
            self._requests.append(self._strangers.popleft())

    def forwarded_here(self, node: NodeId, data: bytes) -> None:
        """Queue a request that a backup passed on. Raises: PeerError: It is malformed."""
        self.add((forwarding.decode_request(node, data),))

    def answered_there(self, node: NodeId, data: bytes) -> None:
        """Pass the primary's answer on. Raises: PeerError: It is malformed."""
        number, response = forwarding.decode_answer(node, data)
        request = self._forwarded.answered(node, number)
        if request is None:
            return
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE and response.body in _NOT_PRIMARY:
            self._park(request, parse_prefer(request.headers.get("prefer", "")), node)  # nothing was done there: the next one may do it
        else:
            self.answer(request.reply_to, response)

    def cut(self, node: NodeId) -> None:
        """The channel to or from a node broke: what it was asked has an unknown outcome."""
        for request in self._forwarded.cut(node):
            self.answer(request.reply_to, refusals.OUTCOME_UNKNOWN)

    def tick(self, now: float) -> None:
        """Answer what has waited for too long."""
        self._now = now
        late = self._writes.take_expired(now)
        if now >= self._undone_until:
            late += [held for held in self._undone if held.deadline <= now]
            self._undone = [held for held in self._undone if held.deadline > now]
            self._undone_until = min((held.deadline for held in self._undone), default=_NEVER)
        for held in late:
            self._receipt_data.pop(held.id.seqno, None)
            self.answer(held.reply_to, refusals.still_pending(held.id))
        for held in self._reads.take_expired(now):
            self._answer_read(held, refusals.still_pending(held.id))
        primary = self._consensus.primary_id
        if primary is not None and primary != self._primary:
            self._primary = primary
            self._forwarded.hurry(primary, now + FORWARDED_SECONDS_MAX)
        for request in self._forwarded.take_expired(now):
            self.answer(request.reply_to, refusals.OUTCOME_UNKNOWN)
        if now >= self._give_up_at:
            self._give_up()

    def retire(self, elsewhere: Elsewhere) -> None:
        """This node is not part of the service any more. Requests are answered by `elsewhere`, unless it gives None.

        Writes that are not committed are the next primary's to keep or to undo. It tells this node, as a rule within milliseconds, and is
        waited for a little.
        """
        self._elsewhere = elsewhere
        self._give_up_at = self._now + RETIRED_WAIT_SECONDS
        for held in self._unconfirmed:
            self._answer_read(held, refusals.NOT_PRIMARY)
        self._unconfirmed.clear()

    def _give_up(self) -> None:
        """On a retired node: nobody has said what became of what waits here, and nobody will."""
        self._give_up_at = _NEVER
        while self.has_committed:
            self.committed()
        for held in (*self._writes.take_all(), *self._undone):
            self._refuse_held(held, refusals.outcome_unknown(held.id))
        self._undone.clear()
        self._receipt_data.clear()
        for held in self._reads.take_all():
            self._answer_read(held, refusals.NOT_PRIMARY)

    def _refuse_held(self, held: Held, refusal: Response) -> None:
        """Refuse a write that was executed here; a retired node also says where to ask again."""
        self.answer(held.reply_to, refusal if self._elsewhere is None else self._elsewhere.point(refusal))

    def again(self, request: Request) -> None:
        """Execute a request anew, before those that wait: it has waited already."""
        self._requests.appendleft(request)
        self._queued_bytes += len(request.body)

    # Executing.

    def execute(self) -> None:
        """Execute what is queued, as much as one wake-up bears, and make entries of what was written."""
        if self._parked:
            self._unpark()
        if self._strangers:
            self._let_strangers_in()
        requests = self._requests
        scripting = self._scripting
        if not (requests or scripting.has_finished):
            return
        elsewhere = self._elsewhere
        consensus = self._consensus
        executor = self._executor
        pending: list[Proposal] = []  # writes that are in the state already, and no entries yet
        pending_bytes = 0
        wanted: list[Seqno] = []  # those of them whose receipt is
        is_primary = consensus.role is Role.PRIMARY
        view = consensus.view
        last = consensus.last_id
        uncommitted = consensus.uncommitted
        memory_bytes = consensus.memory_bytes
        self._answered_bytes = 0
        now_s = self._now_ms() // 1000
        left, left_bytes = EXECUTED_MAX, EXECUTED_BYTES_MAX
        while (requests or scripting.has_finished) and left and left_bytes > 0 and self._answered_bytes < ANSWERED_BYTES_MAX:
            left -= 1
            scripted = scripting.take_finished()
            if scripted is None:
                request = requests.popleft()
                self._queued_bytes -= len(request.body)
                request.now_s = now_s
            else:
                request = scripted.request
                if scripted.endpoint.is_gone:  # governance has replaced it meanwhile
                    self.again(request)
                    continue
                if not scripted.is_current():
                    scripting.again(scripted)
                    continue
            left_bytes -= len(request.body)
            if elsewhere is not None:
                refused = refusals.FORWARDED_TWICE if isinstance(request.reply_to, RemoteReply) else elsewhere(request)
                if refused is not None:
                    self.answer(request.reply_to, refused)
                    continue
            if uncommitted > UNCOMMITTED_MAX or memory_bytes + pending_bytes > UNCOMMITTED_BYTES_MAX:
                self.answer(request.reply_to, refusals.TOO_MANY)
                continue
            wish = request.headers.get("prefer")
            prefer = NO_PREFERENCE if wish is None else parse_prefer(wish)
            next_id = new_tuple(TransactionId, (view, last[1] + 1))
            outcome = executor.execute(request, is_primary, next_id, last, _APPLIED if prefer.committed else (), scripted)
            writes = outcome.writes
            if writes is not None:
                last = next_id
                uncommitted += 1
                if is_plain(writes):
                    pending.append((writes, outcome.claims_digest))
                    pending_bytes += outcome.writes_bytes
                    if prefer.receipt:
                        wanted.append(next_id[1])
                    if len(pending) >= SEALED_TOGETHER:
                        self._propose_all(pending, wanted)
                        memory_bytes, pending_bytes = consensus.memory_bytes, 0
                else:  # what concerns the service itself takes effect before anything else is executed
                    self._propose_all(pending, wanted)
                    memory_bytes, pending_bytes = consensus.memory_bytes, 0
                    entry = self._propose(writes, outcome.claims_digest)
                    if prefer.receipt:
                        self._receipt_data[entry.seqno] = (entry.data, outcome.claims_digest)
            if outcome.failure is not None:
                self._log("error", f"{outcome.endpoint.label if outcome.endpoint else 'a request'} failed: {outcome.failure}")
            if outcome.kind == ANSWER:
                if not prefer.committed or outcome.transaction_id is None:
                    response = outcome.response
                    assert response is not None, "an answer has a response"
                    self.answer(request.reply_to, response)
                elif is_primary:
                    self._hold(request, prefer, outcome)
                else:
                    self._forward(request, prefer)  # a linearizable read is the primary's to answer
            elif outcome.kind == FORWARD:
                self._forward(request, prefer)
            elif outcome.kind == SCRIPTED:
                if scripting.is_full:
                    self.answer(request.reply_to, refusals.TOO_MANY)
                else:
                    assert outcome.endpoint is not None and outcome.params is not None, "it was matched"
                    if is_primary and outcome.endpoint.system and not outcome.endpoint.readonly:
                        self._propose_all(pending, wanted)
                        memory_bytes, pending_bytes = consensus.memory_bytes, 0
                        self._tell_time()  # by which members' decisions are made
                        last = consensus.last_id
                    scripting.begin(request, outcome.endpoint, outcome.params)
            else:
                assert outcome.deferred is not None, "a deferred outcome says what to find"
                self._defer(request.reply_to, outcome.deferred)
        self._propose_all(pending, wanted)
        scripting.take_turns()

    def _propose_all(self, pending: list[Proposal], wanted: list[Seqno]) -> None:
        """Make entries of the writes of plain transactions, all of them at once, and keep what receipts need; empties both lists."""
        if not pending:
            return
        first, entries = self._propose_plain(pending)
        for seqno in wanted:
            self._receipt_data[seqno] = (entries[seqno - first], pending[seqno - first][1])
        pending.clear()
        wanted.clear()

    def _hold(self, request: Request, prefer: Prefer, outcome: Outcome) -> None:
        transaction, response = outcome.transaction_id, outcome.result
        assert transaction is not None and response is not None, "the caller has seen it"
        deadline = _NEVER if prefer.wait_seconds is None else self._now + prefer.wait_seconds
        held = new_tuple(Held, (transaction, request.reply_to, response, prefer.receipt, deadline))
        if outcome.writes is not None:
            self._writes.hold(held)
        elif outcome.replayed:
            if transaction.seqno <= self._consensus.commit_seqno:
                self._release(held)
            else:
                self._writes.hold(held)
        elif self._held_bytes and self._held_bytes + len(response.body) > HELD_BYTES_MAX:
            self.answer(request.reply_to, refusals.TOO_MANY)
        else:
            self._held_bytes += len(response.body)
            self._unconfirmed.append(held)

    def _forward(self, request: Request, prefer: Prefer) -> None:
        request.states = None  # whoever executes it there fetches them there
        primary = self._consensus.primary_id
        channels = self._channels
        if isinstance(request.reply_to, RemoteReply):
            self.answer(request.reply_to, refusals.FORWARDED_TWICE)
        elif primary is None or not channels.connected(primary):
            self._park(request, prefer)
        elif len(self._forwarded) >= OUTSTANDING_MAX:
            self.answer(request.reply_to, refusals.NO_PRIMARY)
        else:
            patience = _NEVER if prefer.committed and prefer.wait_seconds is None else float(prefer.wait_seconds or 0)
            message = REQUEST + forwarding.encode_request(self._forwarded.next_number, request)
            if len(message) > MESSAGE_SIZE_BYTES_MAX:
                self.answer(request.reply_to, refusals.TOO_LARGE_TO_FORWARD)
                return
            self._forwarded.add(primary, request, self._now + patience + FORWARDED_SECONDS_MAX)
            channels.send(primary, message)

    def _park(self, request: Request, prefer: Prefer, not_to: NodeId | None = None) -> None:
        """Keep a request until there is a primary, and another one than `not_to`, if its sender is ready to wait for the commit anyway: he
        need not ask again and again while a primary is elected or hands over. Others are refused at once, as in CCF.
        """
        if not prefer.committed or len(self._parked) >= PARKED_MAX or self._parked_bytes > PARKED_BYTES_MAX:
            self.answer(request.reply_to, refusals.NO_PRIMARY)
            return
        patience = PARKED_SECONDS_MAX if prefer.wait_seconds is None else min(PARKED_SECONDS_MAX, prefer.wait_seconds)
        self._parked.append(Parked(request, not_to, self._now + patience))
        self._parked_bytes += len(request.body)
        self._parked_until = min(self._parked_until, self._now + patience)

    def _unpark(self) -> None:
        """Queue what was kept, if there is a primary now; refuse what has been kept for too long."""
        primary = self._consensus.primary_id
        is_here = self._consensus.role is Role.PRIMARY or self.is_retired
        is_there = primary is not None and self._channels.connected(primary)
        waiting, self._parked = self._parked, deque()
        self._parked_bytes = 0
        self._parked_until = _NEVER
        for parked in waiting:
            if is_here or (is_there and primary != parked.not_to):
                self._requests.append(parked.request)
                self._queued_bytes += len(parked.request.body)
            elif parked.deadline <= self._now:
                self.answer(parked.request.reply_to, refusals.NO_PRIMARY)
            else:
                self._parked.append(parked)
                self._parked_bytes += len(parked.request.body)
                self._parked_until = min(self._parked_until, parked.deadline)

    # Out.

    def answer(self, reply_to: object, response: Response) -> None:
        """Give an answer to whoever waits for it, a client here or a node that forwarded."""
        self._answered_bytes += len(response.body)
        if type(reply_to) is RemoteReply:
            message = REPLY + forwarding.encode_answer(reply_to.number, response)
            if len(message) > MESSAGE_SIZE_BYTES_MAX:
                message = REPLY + forwarding.encode_answer(reply_to.number, refusals.TOO_LARGE_TO_PASS_BACK)
            self._channels.send(reply_to.node, message)
        else:
            self._sessions.answer(reply_to, response)  # type: ignore[arg-type]  # what is not remote came from a session

    def committed(self) -> None:
        """The commit point has moved, or there are answers left to what it made final: give the next of them."""
        commit = self._consensus.commit_seqno
        for held in self._writes.take_committed(commit, ANSWERS_MAX):
            if held.wants_receipt:
                self._release(held)
            else:
                self.answer(held.reply_to, _complete(held))
        for held in self._reads.take_committed(commit, ANSWERS_MAX):
            self._answer_read(held, _complete(held))
        if self._undone:
            self._settle_undone()

    def _settle_undone(self) -> None:
        """Answer the writes that were rolled back here and whose fate is now final, one way or the other."""
        consensus = self._consensus
        undone, self._undone = self._undone, []
        for held in undone:
            if held.id.seqno <= consensus.commit_seqno and consensus.view_of(held.id.seqno) == held.id.view:
                self._release(held)
            elif held.id.seqno <= consensus.commit_seqno or held.id.view < consensus.commit_id.view:
                self._refuse_held(held, refusals.rolled_back(held.id))
            else:
                self._undone.append(held)

    def rolled_back(self, to: Seqno) -> None:
        """Everything above `to` was undone here: reads may have seen what never was.

        Writes are not answered yet. The primary that replaced them may be lost before anything of its view is final, and a node that still
        has them may lead after it; only a commit of a later view decides.
        """
        undone = self._writes.take_rolled_back(to)
        for held in undone:
            self._receipt_data.pop(held.id.seqno, None)  # the seqno may be used again; the disk has what commits
            self._undone_until = min(self._undone_until, held.deadline)
        self._undone += undone
        gone = self._reads.take_rolled_back(to)
        gone += [held for held in self._unconfirmed if held.id.seqno > to]
        self._unconfirmed = [held for held in self._unconfirmed if held.id.seqno <= to]
        for token, waiting in self._confirming.items():
            gone += [held for held in waiting if held.id.seqno > to]
            self._confirming[token] = [held for held in waiting if held.id.seqno <= to]
        for held in gone:
            self._answer_read(held, refusals.rolled_back(held.id))

    def _answer_read(self, held: Held, response: Response) -> None:
        self._held_bytes -= len(held.response.body)
        self.answer(held.reply_to, response)

    def begin_confirmation(self) -> None:
        """Ask consensus to confirm this primary for all reads of this wake-up together."""
        if self._unconfirmed:
            self._next_token += 1
            self._confirming[self._next_token] = self._unconfirmed
            self._unconfirmed = []
            self._consensus.confirm(self._next_token)

    def confirmed(self, tokens: Iterable[Hashable]) -> None:
        """This primary was confirmed for these reads; those that saw uncommitted writes wait for them."""
        for token in tokens:
            for held in self._confirming.pop(token, ()):
                if held.id.seqno <= self._consensus.commit_seqno:
                    self._answer_read(held, _complete(held))
                else:
                    self._reads.hold(held)

    def refused(self, tokens: Iterable[Hashable]) -> None:
        """This node is not primary any more, so these reads cannot be answered here."""
        for token in tokens:
            for held in self._confirming.pop(token, ()):
                self._answer_read(held, refusals.NOT_PRIMARY)

    def _release(self, held: Held) -> None:
        """Answer what is committed, with its receipt if that was asked for."""
        response = _complete(held)
        if not held.wants_receipt:
            self.answer(held.reply_to, response)
            return
        data = self._receipt_data.pop(held.id.seqno, None)
        signed = self._replica.history.committed_range(held.id.seqno)
        if data is not None and signed is not None:
            leaf = leaf_of(self._replica.sealer, held.id, *data)
            self.answer(held.reply_to, _with_receipt(response, make(signed.signature, leaf, signed.path(held.id.seqno), COSE)))
        else:  # a repeated request: its entry is on the disk only
            self._find_receipt(held.id, lambda found: self.answer(held.reply_to, _with_receipt(response, found)))


def _complete(held: Held) -> Response:
    """What is told when it is committed; only who prefers that waits for it."""
    return with_id(held.response, held.id, _APPLIED)


def _with_receipt(response: Response, found: Response) -> Response:
    """Add a receipt; if the host does not give the entry back, the answer goes without, and GET /receipt says why."""
    if found.status != HTTPStatus.OK:
        return response
    return response._replace(headers=(*response.headers, ("x-ledgerd-receipt", base64.b64encode(found.body).decode())))
