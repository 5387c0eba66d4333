"""Who makes room when all places for clients are taken: who is owed nothing, the longest silent first, and strangers before known callers.

Places are what an attacker can take at the cost of a handshake each. Whoever takes them and says nothing leaves again as soon as somebody
else comes; who takes them and asks something now and then pays for each by work. So a newcomer, a joining node among them, always finds
one. A caller whom the tables know keeps its place for a while longer: it can be named, and removed.
Not here: how many places there are, deadlines (`enclave.sessions`).
"""

from collections import deque
from collections.abc import Callable, Collection
from operator import itemgetter

from ledgerd.enclave.session import ANSWERING, Session

Knows = Callable[[str], bool]
"""Whether the tables know a caller, by its id."""


class Places:
    """Chooses. Looks at all sessions once for each moment of `now`, which is a sweep's, and not for each newcomer."""

    __slots__ = ("_leavers", "_looked_at")

    def __init__(self) -> None:
        self._leavers: deque[tuple[float, Session]] = deque()
        self._looked_at: float | None = None

    def leaver(self, sessions: Collection[Session], now: float, known_seconds: float, knows: Knows) -> Session | None:
        """The session that has to leave for a newcomer; None if nobody has.

        Args:
            sessions: All of them.
            now: Monotonic seconds; stands still between sweeps.
            known_seconds: How long a known caller may be silent.
        """
        if self._looked_at != now:
            self._looked_at = now
            self._leavers = _leavers(sessions, now - known_seconds, knows)
        leavers = self._leavers
        while leavers:
            since, session = leavers.popleft()
            if session.since == since and session.phase != ANSWERING and not session.gone:
                return session
        return None


def _leavers(sessions: Collection[Session], known_before: float, knows: Knows) -> deque[tuple[float, Session]]:
    found = []
    for session in sessions:
        if session.phase == ANSWERING:
            continue
        protocol = session.protocol
        if protocol is not None and session.since > known_before and protocol.caller_id and knows(protocol.caller_id):
            continue
        found.append((session.since, session))
    found.sort(key=itemgetter(0))
    return deque(found)
