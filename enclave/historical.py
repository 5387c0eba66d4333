"""Ranges of committed entries, read from the host a few hundred at a time, and believed only once they are recognised.

An entry is recognised by itself (`enclave.ranges`), and by its leaf in the tree of the next signature entry; only then is there a state of
it. A host that gives what is not the entry, or nothing, is asked again a few times, and then whoever asked is told which entries are
missing: nobody waits for ever, and nothing wrong is ever handed out.
Law: memory is bounded by `HELD_BYTES_MAX`, waiting by `READ_SECONDS_MAX`, whatever the host does and however many ask.
Not here: what a state is (`enclave.states`), the questions themselves (`enclave.archive`), who asks (`enclave.serving`,
`enclave.ledger_calls`).
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Protocol

from ledgerd.enclave.archive import Archive
from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.ranges import CheckedEntry, check_covered, recognise
from ledgerd.enclave.receipts import leaf_of
from ledgerd.enclave.replica import Replica
from ledgerd.enclave.states import RANGE_BYTES_MAX, HistoricalState, Range, check_range_of, check_wanted
from ledgerd.ledger import merkle
from ledgerd.ledger.errors import HostError, RequestError
from ledgerd.ledger.ids import Seqno, TransactionId

ATTEMPTS_MAX: Final = 3  # for one answer; an honest host with a whole disk needs one
RETRY_SECONDS: Final = 0.2
READ_SECONDS_MAX: Final = 20.0  # for a whole range, waiting for others' included; less than a node waits for an answer that it passes on
READINGS_MAX: Final = 2  # at the same time: each answer takes the loop some milliseconds
WAITING_MAX: Final = 64  # ranges that wait for their turn; anybody whom the application lets may ask
HELD_BYTES_MAX: Final = 64 << 20  # of states in memory: being read, kept for scripts, and of requests that wait for more
FETCH_ENTRIES: Final = 250  # asked for at once; the host goes on to the next signature entry
FETCH_BYTES: Final = 128 << 10
OPENED_MAX: Final = 4_000  # of one answer, whatever the host gives; the rest is asked for again
STATE_BYTES: Final = 1_500  # that a state takes besides the bytes of its entry
LEAF_BYTES: Final = 190  # that its tree takes for each leaf, be there a state of it or not
EXPIRY_SECONDS_MAX: Final = 3_600
FAILURE_SECONDS: Final = 10.0  # for which a failure is told again, before the host is asked again
HANDLES_MAX: Final = 256
_NEVER: Final = float("inf")

Take = Callable[[list[HistoricalState]], None]
Done = Callable[[RequestError | None], None]


class Kept(Protocol):
    """What is made of states for a handle, as they come."""

    def add(self, states: list[HistoricalState]) -> None:
        """Take the next states of the range. Raises: RequestError: They are too much."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""


class Reading:
    """One range being read.

    Attributes:
        next: The entry that is to come.
        uncovered: Entries that were recognised, and whose signature is to come.
        bytes_held: About the memory that it takes, with what whoever asked for it has besides; what is kept under a handle counts there.
        handle: For which it is read, or None.
        retry_at: When to ask again; None while an answer is waited for.
    """

    __slots__ = (
        "attempts",
        "bytes_held",
        "done",
        "ended_at",
        "entries_bytes",
        "first",
        "handle",
        "last",
        "next",
        "retry_at",
        "take",
        "uncovered",
    )

    def __init__(
        self, first: Seqno, last: Seqno, take: Take, done: Done, ended_at: float, base_bytes: int, handle: "_Handle | None"
    ) -> None:
        self.first = first
        self.last = last
        self.next = first
        self.take = take
        self.done = done
        self.ended_at = ended_at
        self.bytes_held = base_bytes
        self.handle = handle
        self.entries_bytes = 0
        self.attempts = 0
        self.retry_at: float | None = None
        self.uncovered: list[CheckedEntry] = []


class _Handle:
    """What a script asked for under a number."""

    __slots__ = ("expires_at", "failed", "kept", "ready", "span", "wants")

    def __init__(self, span: Range, kept: Kept, expires_at: float) -> None:
        self.span = span
        self.kept = kept
        self.expires_at = expires_at
        self.ready = False
        self.failed: RequestError | None = None
        self.wants = True  # the states, still


class Historical:
    """Reads ranges for requests that wait, and for handles that are asked again."""

    def __init__(self, archive: Archive, consensus: Consensus, replica: Replica, reject: Callable[[HostError], None]) -> None:
        """Args: reject: told when the host gave what it should not."""
        self._archive = archive
        self._consensus = consensus
        self._replica = replica
        self._reject = reject
        self._now = 0.0
        self._waiting: deque[Reading] = deque()
        self._readings: list[Reading] = []
        self._handles: OrderedDict[int, _Handle] = OrderedDict()  # the one asked for last is last

    @property
    def next_deadline(self) -> float:
        """When something that is being read is to be asked for again, or has taken too long; infinity while nothing is read.

        What nobody asks for any more may stay for a while longer, so handles have no part in it.
        """
        times = [reading.ended_at if reading.retry_at is None else min(reading.ended_at, reading.retry_at) for reading in self._readings]
        if self._waiting:
            times.append(self._waiting[0].ended_at)  # the first of them that came
        return min(times, default=_NEVER)

    @property
    def held_bytes(self) -> int:
        """About the memory that all of it takes."""
        kept = sum(handle.kept.size_bytes for handle in self._handles.values())
        return kept + sum(reading.bytes_held for reading in (*self._readings, *self._waiting))

    # Asking.

    def read(self, wanted: Range, take: Take, done: Done, base_bytes: int = 0, handle: _Handle | None = None) -> None:
        """Read a range; `take` is given its states, in order and in parts, then `done` None. Or `done` is told why not.

        Args:
            wanted: Committed entries.
            base_bytes: That whoever asks holds meanwhile.
        Both may be called at once, and `take` may raise RequestError, which ends the reading.
        """
        if len(self._waiting) >= WAITING_MAX or not self._has_room(base_bytes, handle):
            done(BUSY)
            return
        try:
            check_wanted(*wanted, self._consensus.commit_seqno)
        except RequestError as error:
            done(error)
            return
        first, last = Seqno(wanted[0]), Seqno(wanted[1])
        self._waiting.append(Reading(first, last, take, done, self._now + READ_SECONDS_MAX, base_bytes, handle))
        self._begin()

    def state_range(self, handle: int, wanted: Range, expiry_seconds: float, make: Callable[[], Kept]) -> Kept | None:
        """What is kept under a handle, or None while it is being read. To be asked again and again, as CCF's `getStateRange`.

        A handle that is asked for another range forgets the first one. What nobody asks for in time is forgotten; when memory is short,
        what was asked for longest ago goes first.

        Args:
            make: Gives what is to keep the states.
        Raises: RequestError: It is no range, or it cannot be read; that is told for some seconds, and then tried again.
        """
        now = self._now
        found = self._handles.get(handle)
        expires_at = now + min(expiry_seconds, EXPIRY_SECONDS_MAX)
        if found is not None and (found.span != wanted or (found.failed is not None and found.expires_at <= now)):
            self.drop(handle)
            found = None
        if found is None:
            check_range_of(*wanted)
            if wanted[1] > self._consensus.commit_seqno:
                return None  # as in CCF: it may be there later
            while len(self._handles) >= HANDLES_MAX and self._evict():
                pass
            found = self._handles[handle] = _Handle(wanted, make(), expires_at)
            self._read_for(found)
        self._handles.move_to_end(handle)
        if found.failed is BUSY:
            self.drop(handle)
            return None
        if found.failed is not None:
            raise found.failed.with_traceback(None)  # else it would keep whoever was told so before
        found.expires_at = expires_at
        return found.kept if found.ready else None

    def drop(self, handle: int) -> bool:
        """Forget a handle and its states; True if there was one."""
        found = self._handles.pop(handle, None)
        if found is not None:
            found.wants = False
        return found is not None

    def _read_for(self, handle: _Handle) -> None:
        def take(states: list[HistoricalState]) -> None:
            if not handle.wants:
                raise _DROPPED
            handle.kept.add(states)

        def done(error: RequestError | None) -> None:
            handle.ready = error is None
            handle.failed = error
            if error is not None:
                handle.kept = _NOTHING
                handle.expires_at = self._now + FAILURE_SECONDS

        self.read(handle.span, take, done, handle=handle)

    def _has_room(self, more_bytes: int, handle: _Handle | None) -> bool:
        """Whether memory is left, once what other handles keep is forgotten as far as needed."""
        while more_bytes + self.held_bytes > HELD_BYTES_MAX:
            if not self._evict(besides=handle):
                return False
        return True

    def _evict(self, besides: _Handle | None = None) -> bool:
        """Forget the handle that was asked for longest ago; False if there is none."""
        for number, handle in self._handles.items():
            if handle is not besides:
                self.drop(number)
                return True
        return False

    # Time.

    def tick(self, now: float) -> None:
        """Learn the time: ask again where that is due, give up what has taken too long, forget what nobody asked for."""
        self._now = now
        if self._handles:
            for number in [number for number, handle in self._handles.items() if handle.expires_at <= now]:
                self.drop(number)
        if not (self._readings or self._waiting):
            return
        for reading in [reading for reading in (*self._readings, *self._waiting) if reading.ended_at <= now]:
            self._end(reading, missing(reading.next, reading.last))
        for reading in self._readings.copy():
            if reading.retry_at is not None and reading.retry_at <= now:
                self._ask(reading)

    # Reading.

    def _begin(self) -> None:
        while self._waiting and len(self._readings) < READINGS_MAX:
            reading = self._waiting.popleft()
            self._readings.append(reading)
            self._ask(reading)

    def _ask(self, reading: Reading) -> None:
        reading.retry_at = None
        through = min(reading.next + FETCH_ENTRIES, reading.last)  # and to the signature after that, which covers it
        self._archive.read(reading.next, through, FETCH_BYTES, self._now, lambda entries: self._answered(reading, entries))

    def _answered(self, reading: Reading, entries: list[bytes]) -> None:
        if reading not in self._readings:
            return  # it has ended meanwhile
        if not entries:
            self._fail(reading, missing(reading.next, reading.last))
            return
        try:
            states = self._check(reading, entries[:OPENED_MAX])
        except HostError as error:
            self._reject(error)
            if reading.uncovered:  # any of them may be what does not fit
                reading.next = reading.uncovered[0].opened.seqno
                reading.uncovered = []
            self._fail(reading, refused(reading.next, reading.last))
            return
        reading.attempts = 0
        try:
            if reading.entries_bytes > RANGE_BYTES_MAX:
                raise too_large(reading.first, reading.last, reading.next - 1)
            if states:
                if reading.handle is None:
                    reading.bytes_held += sum(state.size_bytes for state in states)
                reading.take(states)
            if not self._has_room(0, reading.handle):
                raise BUSY
        except RequestError as error:
            self._end(reading, error.with_traceback(None))  # some are raised again and again; frames kept with them would keep the entries
            return
        if reading.next > reading.last and not reading.uncovered:
            self._end(reading, None)
        else:
            self._ask(reading)

    def _check(self, reading: Reading, entries: list[bytes]) -> list[HistoricalState]:
        """Recognise entries, and make states of those that a signature covers. Changes nothing if it raises HostError."""
        sealer, view_of, commit = self._replica.sealer, self._consensus.view_of, self._consensus.commit_seqno
        seqno, last = reading.next, reading.last
        uncovered = reading.uncovered.copy()
        states: list[HistoricalState] = []
        read_bytes = 0
        for data in entries:
            entry = recognise(sealer, view_of, commit, seqno, data)
            read_bytes += len(data)
            if entry.signature is not None:
                span = check_covered(entry, uncovered)
                if uncovered:
                    states.extend(self._state(item, entry, span) for item in uncovered)
                    states[-1].size_bytes += LEAF_BYTES * (span.size - span.base)
                uncovered.clear()
            if seqno <= last:
                uncovered.append(entry)
            seqno = Seqno(seqno + 1)
            if seqno > last and all(item.signature is not None for item in uncovered):
                states.extend(self._state(item, item, None) for item in uncovered)  # the last: a signature entry needs none over it
                uncovered.clear()
                break
        reading.next, reading.uncovered = seqno, uncovered
        reading.entries_bytes += read_bytes
        return states

    def _state(self, entry: CheckedEntry, signed: CheckedEntry, span: merkle.Span | None) -> HistoricalState:
        opened = entry.opened
        record = entry.signature
        if record is not None:
            span = None
        else:
            record = signed.signature
            if span is None or not span.base <= opened.seqno < span.size:
                raise HostError(f"the host left out the signature that covers {opened.view}.{opened.seqno}")
        assert record is not None, "a signature entry signs, be it this one or one after it"
        transaction = TransactionId(opened.view, opened.seqno)
        leaf = leaf_of(self._replica.sealer, transaction, entry.data, opened.claims_digest)
        return HistoricalState(transaction, opened.writes, leaf, record, span, len(entry.data) + STATE_BYTES)

    def _fail(self, reading: Reading, error: RequestError) -> None:
        """An answer was of no use: ask again later, or tell whoever asked."""
        reading.attempts += 1
        if reading.attempts >= ATTEMPTS_MAX:
            self._end(reading, error)
        else:
            reading.retry_at = self._now + RETRY_SECONDS

    def _end(self, reading: Reading, error: RequestError | None) -> None:
        if reading in self._readings:
            self._readings.remove(reading)
        else:
            self._waiting.remove(reading)
        reading.done(error)
        self._begin()


class _Nothing:
    """What is kept of a range that cannot be read."""

    size_bytes = 0

    def add(self, states: list[HistoricalState]) -> None:
        """Nothing comes."""


_NOTHING: Final = _Nothing()

BUSY: Final = RequestError(
    503,
    "TooManyRequests",
    "Too much of the ledger's past is being read here. Ask again later, or for less, or another node.",
    (("retry-after", "1"),),
)
_DROPPED: Final = RequestError(503, "TooManyRequests", "These states were dropped while they were read.")


def missing(first: int, last: int) -> RequestError:
    """404: the host does not give these entries back."""
    return RequestError(
        404, "LedgerRangeMissing", f"This node's host does not give back {_entries(first, last)}, which are committed; ask another node."
    )


def refused(first: int, last: int) -> RequestError:
    """503: the host gives something else back."""
    return RequestError(
        503,
        "LedgerRangeRefused",
        f"This node's host gives back something else for {_entries(first, last)} than what is committed; ask another node.",
    )


def too_large(first: int, last: int, until: int) -> RequestError:
    """400: so many bytes are not read at once."""
    return RequestError(
        400,
        "RangeTooLarge",
        f"{_entries(first, until).capitalize()} alone have more than {RANGE_BYTES_MAX} bytes; ask for fewer than to {last}.",
    )


def _entries(first: int, last: int) -> str:
    return f"entries {first} to {last}"
