"""Proposals as JSON: what is read, and what is said of what cannot be."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ledgerd.governance import actions
from ledgerd.governance.actions import REMOVE_NODE, TRUST_NODE, Action
from ledgerd.ledger.errors import FormatError

NODE = "ab" * 32


def proposal(*wanted: Any) -> bytes:
    return json.dumps({"actions": wanted}).encode()


def test_what_is_written_is_read() -> None:
    wanted = (Action(REMOVE_NODE, NODE), Action(TRUST_NODE, NODE, datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), 90))
    assert actions.read(actions.write(wanted)) == wanted


@pytest.mark.parametrize(
    "text", ["20261231235959Z", "261231235959Z", "2026-12-31T23:59:59Z", "2026-12-31 23:59:59", "2027-01-01T00:59:59+01:00"]
)
def test_times_are_read_in_ccfs_forms(text: str) -> None:
    (action,) = actions.read(proposal({"name": TRUST_NODE, "args": {"node_id": NODE, "valid_from": text}}))
    assert action.valid_from == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "`actions`"),
        (proposal(), "1 to 100"),
        (proposal(*[{"name": REMOVE_NODE, "args": {"node_id": NODE}}] * 101), "1 to 100"),
        (proposal("remove_node"), "no action of this service"),
        (proposal({"name": "set_constitution", "args": {}}), "'set_constitution' is no action"),
        (proposal({"name": ["remove_node"], "args": {}}), "no action of this service"),
        (proposal({"name": REMOVE_NODE}), "`args`"),
        (proposal({"name": REMOVE_NODE, "args": {"node_id": NODE}, "more": 1}), "nothing else"),
        (proposal({"name": REMOVE_NODE, "args": {"node_id": NODE, "by": "me"}}), "'by'"),
        (proposal({"name": REMOVE_NODE, "args": {}}), "64 lower-case"),
        (proposal({"name": REMOVE_NODE, "args": {"node_id": NODE.upper()}}), "64 lower-case"),
        (proposal({"name": REMOVE_NODE, "args": {"node_id": NODE + "\n"}}), "64 lower-case"),
        (proposal({"name": TRUST_NODE, "args": {"node_id": NODE, "valid_from": "soon"}}), "valid_from"),
        (proposal({"name": TRUST_NODE, "args": {"node_id": NODE, "valid_from": 5}}), "valid_from"),
        (proposal({"name": TRUST_NODE, "args": {"node_id": NODE, "validity_period_days": 0}}), "validity_period_days"),
        (proposal({"name": TRUST_NODE, "args": {"node_id": NODE, "validity_period_days": True}}), "validity_period_days"),
    ],
)
def test_what_is_no_proposal_is_refused_and_said_where(body: bytes, what: str) -> None:
    with pytest.raises(FormatError, match=what):
        actions.read(body)
