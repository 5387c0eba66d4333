"""Who applies the rules: at every change of a log, and after every event those that it may have broken.

Not here: the rules, each with its reason (`invariants`).
"""

from typing import Any

from ledgerd.enclave.consensus.core import Consensus, Role
from support.simulation.invariants import (
    append_in_view,
    asks_before_it_stands,
    check_quorum,
    commit_committable_indices,
    committed_log_append_only,
    durable,
    leader_completeness,
    log_configuration_consistent,
    log_inv,
    log_matching,
    membership_state_consistent,
    mono_log,
    mono_term,
    monotonic_match_index,
    more_than_one_leader,
    never_commit_entry_prev_terms,
    nobody_stops,
    permitted_log_changes,
    quorum_log,
    retired_committed,
    retirement_completed_not_in_configs,
    sent_covers_match,
    signature_inv,
    single_author,
    state_transitions,
)
from support.simulation.observation import Registry, Shadow, Witness


class Judge(Witness):
    """Applies the rules to all nodes of a world.

    Args:
        nodes: By name; `by_id` by node id, as logs call them. The world adds to both.
    """

    def __init__(self, registry: Registry, nodes: dict[str, Any], by_id: dict[str, Any]) -> None:
        self.registry = registry
        self.nodes = nodes
        self.by_id = by_id

    # What logs tell.

    def authored(self, shadow: Shadow, view: int, seqno: int) -> None:
        single_author(self.by_id[shadow.node_id], view, seqno, self.registry)

    def differs(self, shadow: Shadow, view: int, seqno: int) -> None:
        log_matching(self.by_id[shadow.node_id], view, seqno, self.registry)

    def extended(self, shadow: Shadow, view: int, count: int) -> None:
        node = self.by_id[shadow.node_id]
        mono_log(node, view, count)
        append_in_view(node, view)

    def truncating(self, shadow: Shadow, to: int) -> None:
        node = self.by_id[shadow.node_id]
        permitted_log_changes(node, to)
        quorum_log(node, to, self.registry)

    def committing(self, shadow: Shadow, to: int) -> None:
        node = self.by_id[shadow.node_id]
        registry = self.registry
        committed_log_append_only(node, to)
        signature_inv(node, to)
        log_inv(node, to, registry)
        never_commit_entry_prev_terms(node, to, registry)
        durable(node, to, registry, self.by_id)
        if to >= len(registry.final):
            registry.settled += [node.core.view] * (to + 1 - len(registry.final))
            registry.final += shadow.views[len(registry.final) : to + 1]

    # What the world asks after every event.

    def look(self, node: Any) -> None:
        """A node has handled something."""
        core: Consensus = node.core
        if core.failed is not None:
            nobody_stops(node, self.registry)
        if core.view != node.view or core.role is not node.role:
            mono_term(node)
            state_transitions(node)
            asks_before_it_stands(node)
            if core.role is Role.PRIMARY:
                more_than_one_leader(node, self.registry)
                leader_completeness(node, self.registry)
            node.matches.clear()
            node.view, node.role = core.view, core.role
            node.changes = -1
        if core.role is Role.PRIMARY:
            monotonic_match_index(node)
            sent_covers_match(node)
        if node.shadow.changes != node.changes:
            node.changes = node.shadow.changes
            if node.newest != node.shadow.configurations[-1:]:
                node.newest = node.shadow.configurations[-1:]
                node.reconfigured_at = core._now
            commit_committable_indices(node)
            log_configuration_consistent(node)
            membership_state_consistent(node)
            retired_committed(node)
            retirement_completed_not_in_configs(node)
        if core.role is Role.PRIMARY:
            check_quorum(node)
        node.may_stand = False
