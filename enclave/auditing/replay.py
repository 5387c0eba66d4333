"""The replay itself: entry after entry in, what each of them did out, up to the first that does not follow.

An entry with a member's signed request is executed again, by the endpoint that took it, on the state before it; what that writes must be
what stands there, byte for byte. Every other change of the service's tables must be on the list of `enclave.auditing.unasked`.
Sans-IO: scripts of constitutions and ballots run in workers that a driver of the caller's keeps.
"""

import base64
import binascii
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, NamedTuple

from ledgerd.enclave.auditing import findings
from ledgerd.enclave.auditing.findings import NotFollowingError, Step, difference, read_json, record_in, short
from ledgerd.enclave.auditing.requesting import Again
from ledgerd.enclave.auditing.roots import Roots
from ledgerd.enclave.auditing.stand_in import Period
from ledgerd.enclave.auditing.unasked import Change, Unasked
from ledgerd.enclave.governing.proposing import CREATED_AHEAD_SECONDS_MAX
from ledgerd.enclave.keys import CLOCK_SLACK, at_milliseconds
from ledgerd.enclave.kv import Store
from ledgerd.enclave.scripting import Signed
from ledgerd.enclave.scripts.overlay import SIGNED
from ledgerd.governance import requests, tables
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger import cose
from ledgerd.ledger.entry import PublicEntry, WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError, RequestError, UsageError
from ledgerd.ledger.ids import Seqno, TransactionId
from ledgerd.ledger.receipt import load_certificate
from ledgerd.ledger.signature import parse

OBSERVED_SECONDS_MAX: Final = 60  # that scripts may take, by the service's own signatures
OBSERVED_BYTES_MAX: Final = 256 << 20  # of signatures' records: those of 50,000 in that time; a ledger may say that all are of one second
CLOCKS_APART_SECONDS_MAX: Final = 60  # of nodes of one service: who executed a request and who signed next may be two

_SIGNATURE_MAPS: Final = frozenset(SIGNED)
_SERVICES: Final = ("public:ccf.", "public:ledgerd.")  # maps that only the service writes, or governance


class Replay:
    """Takes a ledger's entries from seqno 1 on, as `ledger.audit.Auditor` has verified them; none after one that was refused.

    Attributes:
        store: The public state so far.
        turn: To be set: called while a script is waited for; drives `pool`, and returns when something may have come of it.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.turn: Callable[[], None] = _no_turn
        self._roots = Roots()
        self._last_signed = Seqno(0)
        self._unasked = Unasked(self.store, lambda: self._last_signed)
        self._again = Again(self.store, lambda: self._last_signed, self._wait)
        self._signatures: deque[tuple[Seqno, int, Signed]] = deque()  # of the last minute: seqno, time, records
        self._signatures_bytes = 0
        self._signed_at = 0  # as the last signature states, seconds since 1970
        self._dated: list[_Dated] = []  # since that

    @property
    def script_seconds(self) -> float:
        """For which scripts have run so far."""
        return self._again.seconds

    def allow(self, script_seconds: float) -> None:
        """Set for how long they may, all together."""
        self._again.seconds_max = script_seconds

    @property
    def pool(self) -> Any:
        """The script workers' pool."""
        return self._again.pool

    def feed(self, entry: PublicEntry) -> Step | None:
        """Take the next entry; None if it changes nothing that governs.

        Raises: NotFollowingError: It does not follow. The replay is at its end.
        """
        identifier = TransactionId(entry.view, entry.seqno)
        if entry.seqno != self.store.version + 1:
            raise UsageError(f"entry {identifier} was given after {self.store.version}")
        try:
            step = self._take(identifier, entry.writes)
        except LedgerdError:
            raise
        except Exception as error:  # tables may hold anything; who executed the entry would have failed as we do
            meaning = "A service of ledgerd's cannot have executed what led to this entry."
            found = f"records that cannot be read ({type(error).__name__}: {str(error)[:100]})"
            raise NotFollowingError(identifier, findings.FORM, "records of the form that the service writes", found, meaning) from error
        self.store.apply(entry.seqno, entry.writes)
        self.store.compact(entry.seqno)
        self._roots.append(entry.leaf)
        return step

    def _take(self, identifier: TransactionId, writes: WriteSet) -> Step | None:
        if identifier.seqno == 1:
            return _step(identifier, self._unasked.genesis(identifier, writes))
        governing = [name for name in writes if name.startswith(_SERVICES)]
        if not governing:
            return None
        if not _SIGNATURE_MAPS.isdisjoint(governing):
            self._signature(identifier, writes)
            return None
        if tables.COSE_HISTORY in writes:
            return self._request(identifier, writes)
        if len(governing) != len(writes):
            raise NotFollowingError(
                identifier,
                findings.ORIGIN,
                "an application's writes apart from those of the service",
                f"{min(writes.keys() - set(governing))} beside {min(governing)}",
                "No application may write the service's tables.",
            )
        return _step(identifier, self._unasked.recognise(identifier, writes))

    def _signature(self, identifier: TransactionId, writes: WriteSet) -> None:
        """The service states its time: requests before it must not be of the future."""
        self._last_signed = identifier.seqno
        found = parse(writes)
        if found is None or found.cose is None:
            return
        signed_at = cose.read_root_header(cose.decode(found.cose)).issued_at
        for dated in self._dated:
            dated.check(self._signed_at, signed_at)
        self._dated.clear()
        self._signed_at = signed_at
        seqno = identifier.seqno
        self._signatures.append((seqno, signed_at, {name: (writes.get(name, {}).get(tables.SINGLETON), seqno) for name in SIGNED}))
        self._signatures_bytes += _size_of(self._signatures[-1])
        while self._signatures[0][1] < signed_at - OBSERVED_SECONDS_MAX or (
            self._signatures_bytes > OBSERVED_BYTES_MAX and len(self._signatures) > 1
        ):
            self._signatures_bytes -= _size_of(self._signatures.popleft())

    def _wait(self) -> None:
        self.turn()

    # A member's request.

    def _request(self, identifier: TransactionId, writes: WriteSet) -> Step:
        request = self._envelope(identifier, writes)
        self._check_signer(identifier, request)
        root = None
        if request.kind == requests.PROPOSAL:
            root = self._root_of(identifier, request, writes)
        elif request.proposal_id is not None:
            self._check_proposal(identifier, request, writes)
        observed = self._observed(identifier, writes)
        try:
            expected = self._again.execute(request, root, identifier, writes, observed)
        except RequestError as error:
            raise NotFollowingError(
                identifier,
                findings.REQUEST,
                f"nothing: to this {request.kind} of member {short(request.member_id)} a service answers "
                f"{error.status} {error.error_code}, {error.message}",
                "an entry in which it was taken",
                "Whoever ran the service took what its rules refuse.",
            ) from None
        wrong = difference(expected.writes, writes)
        if wrong is not None:
            others = self._again.others(request, root, identifier, writes, observed)
            other = next((other for other in others if difference(other.writes, writes) is None), None)
            if other is not None:
                expected, wrong = other, None
        if wrong is not None:
            raise NotFollowingError(
                identifier,
                findings.OUTCOME,
                f"{wrong.where}: {wrong.expected}",
                wrong.found,
                f"This is not what becomes of the {request.kind} that member {short(request.member_id)} signed, by the rules that stood "
                f"in the ledger then{expected.doubt}.",
            )
        created_at = request.created_at if request.kind == requests.PROPOSAL else None
        self._dated.append(_Dated(identifier, created_at, expected.periods))
        step = self._say(identifier, request, writes)
        if not expected.late:
            return step
        which = "a script" if expected.late == 1 else f"{expected.late} scripts"
        return step._replace(text=f"{step.text}; that {which} ran out of time is the service's word: here it took long, and ended")

    def _observed(self, identifier: TransactionId, writes: WriteSet) -> Signed | None:
        """The signature whose records the scripts saw, and by whose time they decided: a busy service signs on while they run."""
        value = writes.get(tables.OBSERVED_SIGNATURE, {}).get(tables.SINGLETON)
        if value is None:
            return None
        named = read_json(value)
        for seqno, _, records in self._signatures:
            if seqno == named:
                return records
        raise NotFollowingError(
            identifier,
            findings.TIME,
            f"a decision by the time of one of the service's signatures of the last {OBSERVED_SECONDS_MAX} s before it",
            f"by that of entry {str(named)[:64]}",
            "The service took another time for the present one, which can end a proposal too early or too late.",
        )

    def _envelope(self, identifier: TransactionId, writes: WriteSet) -> SignedRequest:
        """The request in an entry's history of requests."""
        history = writes[tables.COSE_HISTORY]
        meaning = "Without the signed request nobody can say who wanted this."
        if len(history) != 1:
            raise NotFollowingError(identifier, findings.FORM, "one signed request", f"{len(history)} of them", meaning)
        ((key, value),) = history.items()
        text = None if value is None else read_json(value)
        try:
            request = requests.read(base64.b64decode(text if isinstance(text, str) else "", validate=True))
        except (FormatError, binascii.Error) as error:
            raise NotFollowingError(identifier, findings.FORM, "a signed request, in base64", f"none: {error}", meaning) from None
        if request.member_id.encode() != key:
            found = f"one under the name of {short(key.decode(errors='replace'))}"
            raise NotFollowingError(identifier, findings.FORM, f"a request of member {short(request.member_id)}", found, meaning)
        return request

    def _check_signer(self, identifier: TransactionId, request: SignedRequest) -> None:
        key = request.member_id.encode()
        who = f"{request.kind} signed by {short(request.member_id)}"
        certificate = self.store.get(tables.MEMBER_CERTS, key)
        status = (record_in(self.store.get(tables.MEMBER_INFO, key)) or {}).get("status")
        if certificate is None or status is None:
            meaning = "Somebody decided here who is no member."
            raise NotFollowingError(identifier, findings.MEMBER, "a request of a member", f"a {who}, who is none", meaning)
        if status != tables.ACTIVE and request.kind not in (requests.ACK, requests.STATE_DIGEST):
            found = f"a {who}, who is {status}"
            raise NotFollowingError(identifier, findings.MEMBER, "an active member", found, "Somebody decided here who may not yet.")
        try:
            requests.verify(request, load_certificate(certificate))
        except (IntegrityError, FormatError) as error:
            meaning = "The member has not signed this: somebody speaks for it."
            raise NotFollowingError(
                identifier, findings.SIGNATURE, f"the signature of member {short(request.member_id)}", str(error), meaning
            ) from None

    def _root_of(self, identifier: TransactionId, request: SignedRequest, writes: WriteSet) -> bytes:
        """The root from which the proposal's id was made."""
        added = [key.decode(errors="replace") for key, value in writes.get(tables.PROPOSALS, {}).items() if value is not None]
        meaning = (
            "The proposal's name does not come from this ledger, so what members signed about it may have been signed elsewhere, "
            "or for something else."
        )
        if len(added) != 1:
            expected = "one proposal beside the request that makes it"
            raise NotFollowingError(identifier, findings.PROPOSAL_ID, expected, f"{len(added)} of them", meaning)
        root = self._roots.behind(added[0], request.digest)
        if root is None:
            expected = "a proposal named by a root of this ledger and the signature under it"
            raise NotFollowingError(identifier, findings.PROPOSAL_ID, expected, f"the name {added[0][:64]}", meaning)
        return root

    def _check_proposal(self, identifier: TransactionId, request: SignedRequest, writes: WriteSet) -> None:
        proposal_id = request.proposal_id or ""
        changed = writes.get(tables.PROPOSALS_INFO, {})
        if proposal_id.encode() not in changed:
            others = ", ".join(short(key.decode(errors="replace")) for key in sorted(changed)) or "no proposal"
            raise NotFollowingError(
                identifier,
                findings.PROPOSAL_ID,
                f"a change of proposal {short(proposal_id)}, for which member {short(request.member_id)} signed a {request.kind}",
                f"a change of {others}",
                "What a member signed for one proposal was used for another.",
            )

    def _say(self, identifier: TransactionId, request: SignedRequest, writes: WriteSet) -> Step:
        """What a request that follows has done, in words."""
        proposal_id = request.proposal_id
        infos = {key.decode(): record_in(value) for key, value in writes.get(tables.PROPOSALS_INFO, {}).items() if value is not None}
        if request.kind == requests.PROPOSAL:
            (key,) = [key for key, value in writes[tables.PROPOSALS].items() if value is not None]
            proposal_id = key.decode()
        info = infos.get(proposal_id or "") or {}
        state = info.get("state")
        words = {
            requests.PROPOSAL: f"proposed {actions_in(request.payload)}",
            requests.BALLOT: f"voted on {short(proposal_id or '')}",
            requests.WITHDRAWAL: f"withdrew {short(proposal_id or '')}",
            requests.ACK: "acknowledged the state, and is active",
        }.get(request.kind, f"sent a {request.kind}")
        text = f"member {short(request.member_id)} {words}"
        if request.kind in (requests.PROPOSAL, requests.BALLOT):
            text += f": {state}"
            if info.get("failure"):
                text += f" ({info['failure'].get('reason')})"
            votes = info.get("final_votes")
            if votes:
                text += f", {sum(bool(vote) for vote in votes.values())} for and {sum(not vote for vote in votes.values())} against"
            failures = info.get("vote_failures")
            if failures:
                text += f", {len(failures)} ballot{'' if len(failures) == 1 else 's'} failed"
        dropped = sorted(
            key for key in writes.get(tables.PROPOSALS_INFO, {}) if key.decode() != proposal_id and self._is_dropped(key, writes)
        )
        if dropped:
            text += f"; dropped: {', '.join(short(key.decode()) for key in dropped)}"
        return Step(identifier, request.kind, text, request.member_id, proposal_id, state)

    def _is_dropped(self, key: bytes, writes: WriteSet) -> bool:
        """Whether a proposal was open before an entry that is about another one, and is not any more."""
        before = record_in(self.store.get(tables.PROPOSALS_INFO, key)) or {}
        after = record_in(writes[tables.PROPOSALS_INFO][key]) or {}
        return before.get("state") == tables.OPEN and after.get("state") != tables.OPEN


class _Dated(NamedTuple):
    """What an entry says of time, of which the service's clock had to approve when it was made.

    Attributes:
        created_at: When a proposal was signed, by its proposer's clock.
        periods: Of the certificates that were made.
    """

    transaction_id: TransactionId
    created_at: int | None
    periods: tuple[Period, ...]

    def check(self, before: int, after: int) -> None:
        """Check it by the times that the signatures before and after it state, seconds since 1970. Raises: NotFollowingError."""
        if self.created_at is not None and self.created_at > after + CREATED_AHEAD_SECONDS_MAX + CLOCKS_APART_SECONDS_MAX:
            raise NotFollowingError(
                self.transaction_id,
                findings.CREATED_AT,
                f"a proposal of at most {CREATED_AHEAD_SECONDS_MAX} s after {after}, the time in the service's next signature",
                f"created_at {self.created_at}",
                "The service took a proposal of the future, which can shut out those of others.",
            )
        latest = at_milliseconds(after * 1000) + CLOCK_SLACK + timedelta(seconds=CLOCKS_APART_SECONDS_MAX)
        for begins, days in self.periods:
            if begins > latest or begins + timedelta(days=days) < at_milliseconds(before * 1000):
                raise NotFollowingError(
                    self.transaction_id,
                    findings.CERTIFICATE,
                    "certificates that were valid when they were made",
                    f"one from {begins:%Y-%m-%d %H:%M:%S} UTC for {days} days",
                    "The service made a certificate that it refuses to make.",
                )


def _size_of(signature: tuple[Seqno, int, Signed]) -> int:
    return 500 + sum(len(value or b"") for value, _ in signature[2].values())  # and what it is kept in


def _step(identifier: TransactionId, change: Change) -> Step:
    return Step(identifier, change.kind, change.text, change.member_id)


def _no_turn() -> None:
    raise UsageError("a script is to be run, and nobody drives the workers: set `turn`")


def actions_in(proposal: bytes) -> str:
    """The names of a proposal's actions."""
    found = record_in(proposal) or {}
    actions = found.get("actions")
    names = [str(action.get("name"))[:64] for action in actions if isinstance(action, dict)] if isinstance(actions, list) else []
    return ", ".join(names) or "nothing"
