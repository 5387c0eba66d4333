"""What a node can be, how far its removal can get, and every way that either changes: tables, and nothing else.

Pure. Not here: when a cause arises (`consensus.elections`, `leading`, `following`, `membership`); how a peer is fed (`consensus.progress`).
"""

from enum import Enum
from typing import Final

from ledgerd.ledger.errors import UsageError


class Role(Enum):
    """What a node is. The values are CCF's words for `leadership_state`."""

    NONE = "None"
    BACKUP = "Follower"
    PRE_VOTE_CANDIDATE = "PreVoteCandidate"
    CANDIDATE = "Candidate"
    PRIMARY = "Leader"


class Cause(Enum):
    """Why a role changes."""

    GENESIS = "start_primary"
    JOINING = "start_backup"
    SILENCE = "no primary heard for an election timeout, or an election without result"
    PROPOSED = "ProposeVote from the primary"
    WOULD_WIN = "quorums would vote for us"
    WON = "quorums voted for us"
    LATER_VIEW = "a message of a later view"
    PRIMARY_HEARD = "AppendEntries of this view"
    QUORUM_LOST = "a configuration without answers from a majority for an election timeout (CheckQuorum)"
    STALLED = "the oldest signature entry got no further on any disk for a long time"
    RETIRED = "the record of our own removal is committed"


# Every way a role changes is a row here; anything else is a UsageError.
ROLE_TRANSITIONS: Final = {
    (Role.NONE, Cause.GENESIS): Role.PRIMARY,
    (Role.NONE, Cause.JOINING): Role.BACKUP,
    (Role.BACKUP, Cause.SILENCE): Role.PRE_VOTE_CANDIDATE,
    (Role.BACKUP, Cause.PROPOSED): Role.CANDIDATE,  # no PreVote: its point is not to disturb a live primary, and that one asked for it
    (Role.BACKUP, Cause.LATER_VIEW): Role.BACKUP,
    (Role.BACKUP, Cause.PRIMARY_HEARD): Role.BACKUP,
    (Role.PRE_VOTE_CANDIDATE, Cause.SILENCE): Role.PRE_VOTE_CANDIDATE,
    (Role.PRE_VOTE_CANDIDATE, Cause.WOULD_WIN): Role.CANDIDATE,
    (Role.PRE_VOTE_CANDIDATE, Cause.LATER_VIEW): Role.BACKUP,
    (Role.PRE_VOTE_CANDIDATE, Cause.PRIMARY_HEARD): Role.BACKUP,
    (Role.CANDIDATE, Cause.SILENCE): Role.PRE_VOTE_CANDIDATE,  # and not at once a further view: that is what PreVote is for
    (Role.CANDIDATE, Cause.WON): Role.PRIMARY,
    (Role.CANDIDATE, Cause.LATER_VIEW): Role.BACKUP,
    (Role.CANDIDATE, Cause.PRIMARY_HEARD): Role.BACKUP,
    (Role.PRIMARY, Cause.LATER_VIEW): Role.BACKUP,
    (Role.PRIMARY, Cause.QUORUM_LOST): Role.BACKUP,
    (Role.PRIMARY, Cause.STALLED): Role.BACKUP,
    (Role.PRIMARY, Cause.RETIRED): Role.NONE,
    (Role.NONE, Cause.LATER_VIEW): Role.BACKUP,  # the next primary may not know yet that nobody needs us; electable we are not
}


class Retirement(Enum):
    """How far this node's own removal has got. The values are CCF's words for `retirement_phase`."""

    NONE = ""
    ORDERED = "Ordered"
    SIGNED = "Signed"
    COMPLETED = "Completed"
    RETIRED_COMMITTED = "RetiredCommitted"


class Removal(Enum):
    """What moves this node's retirement."""

    CONFIGURED = "a configuration without this node is appended"
    SIGNED = "a signature entry stands over it"
    COMMITTED = "that signature entry is committed"
    RECORDED = "the entry that records `retired_committed` is committed"
    ROLLED_BACK = "the configuration is truncated"


# Its first signature entry cannot be truncated without the configuration: a primary that lacks the one has discarded the other when it won.
# From COMPLETED on there is no way back: what is committed stays. Until RETIRED_COMMITTED the node goes on storing and voting, since peers
# that do not know yet of its removal may need it for their quorums.
RETIREMENT_TRANSITIONS: Final = {
    (Retirement.NONE, Removal.CONFIGURED): Retirement.ORDERED,
    (Retirement.ORDERED, Removal.SIGNED): Retirement.SIGNED,
    (Retirement.ORDERED, Removal.ROLLED_BACK): Retirement.NONE,
    (Retirement.SIGNED, Removal.COMMITTED): Retirement.COMPLETED,
    (Retirement.SIGNED, Removal.ROLLED_BACK): Retirement.NONE,
    (Retirement.COMPLETED, Removal.RECORDED): Retirement.RETIRED_COMMITTED,
}


def next_role(role: Role, cause: Cause) -> Role:
    """Follow the table.

    Raises: UsageError: There is no such row.
    """
    after = ROLE_TRANSITIONS.get((role, cause))
    if after is None:
        raise UsageError(f"{role} cannot see {cause}")
    return after


def next_phase(phase: Retirement, cause: Removal) -> Retirement:
    """Follow the table.

    Raises: UsageError: There is no such row.
    """
    after = RETIREMENT_TRANSITIONS.get((phase, cause))
    if after is None:
        raise UsageError(f"{phase} cannot see {cause}")
    return after
