"""The log's two ends, on any node: what an appended entry changes, what is undone, what is final; and whose service it is.

Configurations, the phases in which a node leaves, rollback and commit. Not here: who decides what commits (`consensus.leading`,
`consensus.following`); majorities (`consensus.quorum`).
"""

from ledgerd.enclave.consensus.contract import Note
from ledgerd.enclave.consensus.messages import ProposeVote
from ledgerd.enclave.consensus.progress import Flow, Progress
from ledgerd.enclave.consensus.quorum import Configuration
from ledgerd.enclave.consensus.roles import Cause, Removal, Retirement, Role, next_phase
from ledgerd.enclave.consensus.state import NEVER, State
from ledgerd.ledger.errors import UsageError
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId


class Membership(State):
    """Appending, undoing, committing: what they mean for the node's state and for its place in the service."""

    @property
    def is_member(self) -> bool:
        """Whether this node has read its own name in a configuration that is active."""
        return any(self.node_id in configuration.nodes for configuration in self._configurations)

    def _is_electable(self) -> bool:
        """Members by what is signed, and those whose removal is final but not on record yet.

        By what is signed, since whoever wins discards the rest: a node that stood for the sake of an unsigned configuration would lead
        a service that it is no member of, and could not stand again. (So a node that an unsigned entry has added and the next one removed
        does not stand. Until its removal is final, one that was ever signed for is still in a configuration that is active.) And the
        others, since such a one may be the only node with the latest signed entries, and those who do not know yet that its removal is
        final need its vote. If it could not stand, it would refuse theirs and nobody would ever lead again.
        """
        signed = self._log.last_committable
        return self.retirement is Retirement.COMPLETED or any(
            self.node_id in configuration.nodes for configuration in self._configurations if configuration.seqno <= signed
        )

    def _note(self, note: Note) -> None:
        """What an appended entry means for commit and for membership."""
        seqno, committable, configuration, removed = note
        if committable:
            self._log.mark_committable(seqno)
        if configuration is not None:
            self._configure(Configuration(seqno, configuration.nodes))
        if removed:
            self._removals.append((seqno, removed))
        if committable and self.retirement is Retirement.ORDERED:
            self._retire(Removal.SIGNED)
            self._retirement_signed = seqno

    def _configure(self, configuration: Configuration) -> None:
        """A configuration is active as soon as it is appended (a node cannot know whether others have committed it already), beside all
        earlier ones.
        """
        known = self.is_member
        self._configurations.append(configuration)
        member = self.node_id in configuration.nodes
        if known and not member and self.retirement is Retirement.NONE:
            self._retire(Removal.CONFIGURED)
            self._retirement_seqno = configuration.seqno
        if self.role is Role.PRIMARY:
            for node in sorted(configuration.nodes.difference(self._peers, {self.node_id})):
                # It probably has nothing. Its first refusal says so, at the price of one round trip.
                peer = self._peers[node] = Progress(node, Seqno(configuration.seqno - 1), self._now)
                peer.heard_at += self._settings.newcomer
        elif member and self._election_at == NEVER:
            self._rest()

    def _retire(self, cause: Removal) -> None:
        self.retirement = next_phase(self.retirement, cause)

    def _rollback(self, to: Seqno) -> None:
        """Undo every entry above `to`: in memory, in the state, and (with the next `ready`) on disk."""
        log = self._log
        if to >= log.last_seqno:
            return
        if to < self.commit_seqno:
            raise UsageError(f"rollback to {to}, below commit at {self.commit_seqno}")
        log.truncate(to)
        self._batches.clear()
        self._machine.rollback(TransactionId(log.last_view, to))
        while self._configurations and self._configurations[-1].seqno > to:
            del self._configurations[-1]
        while self._removals and self._removals[-1][0] > to:
            del self._removals[-1]
        if self.retirement in (Retirement.ORDERED, Retirement.SIGNED) and self._retirement_seqno > to:
            self._retire(Removal.ROLLED_BACK)
        if self._handed > to:
            # The host has been given some of it. From here on, what it reports of the old generation is of entries that are no more.
            self._handed = to
            self._generation += 1
            self._truncate_after = to if self._truncate_after is None else min(self._truncate_after, to)
        self.stored_seqno = min(self.stored_seqno, to)
        self._ahead = min(self._ahead, to)

    def _commit(self, to: Seqno) -> None:
        if to <= self.commit_seqno:
            return
        self.commit_seqno = to
        self._log.commit(to)
        self._machine.commit(to)
        configurations = self._configurations
        while len(configurations) > 1 and configurations[1].seqno <= to:
            self._leaving |= configurations.pop(0).nodes
            self._leaving -= configurations[0].nodes
        if self.retirement is Retirement.SIGNED and self._retirement_signed <= to:
            self._retire(Removal.COMMITTED)
        while self._removals and self._removals[0][0] <= to:
            self._remove(self._removals.pop(0)[1])
        self._release()

    def _remove(self, nodes: frozenset[NodeId]) -> None:
        self._leaving -= nodes
        for node in sorted(nodes - self.peers - {self.node_id}):
            peer = self._peers.pop(node, None)
            if peer is not None:
                self._dismissed.append(peer)
        if self.node_id in nodes and self.retirement is Retirement.COMPLETED:
            self._retire(Removal.RECORDED)
            if self.role is Role.PRIMARY:
                self.propose_successor()
                self._move(Cause.RETIRED)
                self.primary_id = None
                self._abdicate(self.view)

    def propose_successor(self) -> NodeId | None:
        """On a primary that leaves: ask the peer of the newest configuration that has most to stand at once, one that answers if there is
        any. Returns whom, or None if there is nobody.
        """
        if self.role is not Role.PRIMARY or not self._configurations:
            return None
        fit = [peer for node, peer in self._peers.items() if node in self._configurations[-1].nodes and peer.flow is not Flow.DIVERGED]
        if not fit:
            return None
        since = self._now - self._settings.election_timeout
        best = min(fit, key=lambda peer: (peer.heard_at <= since, -peer.match, peer.node_id))
        self._messages.append((best.node_id, ProposeVote(self.view)))
        return best.node_id

    def _release(self) -> None:
        """Let go of entries that are final, on our own disk, and either on every peer's or more than the window holds."""
        limit = min(self.commit_seqno, self.stored_seqno)
        log = self._log
        if limit <= log.base:
            return
        if self.role is Role.PRIMARY:
            to = min((peer.match for peer in self._peers.values()), default=limit)
        else:
            to = log.base  # a backup does not know what others have, and may have to feed them one day
        to = min(limit, max(to, log.excess(self._settings.window_entries, self._settings.window_bytes, limit)))
        if to > log.base:
            log.drop(to)
