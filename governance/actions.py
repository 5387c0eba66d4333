"""What a proposal asks for: a list of actions in JSON, read and checked for its form. Pure.

So far there are two, CCF's own by name and arguments: a node leaves, a waiting node is trusted. Not here: whether the state allows it and
what it writes (`governance.constitution`).
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from ledgerd.ledger.errors import FormatError

REMOVE_NODE: Final = "remove_node"
TRUST_NODE: Final = "transition_node_to_trusted"

ACTIONS_MAX: Final = 100
DEPTH_MAX: Final = 8  # of the JSON; ours needs four

_is_node_id: Final = re.compile(r"[0-9a-f]{64}").fullmatch


class Action(NamedTuple):
    """One action of a proposal; `node_id` is well-formed, whether there is such a node is another question.

    `valid_from` (UTC) and `days` are of the certificate of a node that is to be trusted; None leaves them to the service.
    """

    name: str
    node_id: str
    valid_from: datetime | None = None
    days: int | None = None


def read(proposal: bytes) -> tuple[Action, ...]:
    """Read a proposal: `{"actions": [{"name", "args"}, ...]}`.

    Raises: FormatError: It is none, or has an action that does not exist here; the message says where.
    """
    try:
        root = json.loads(proposal)
    except (ValueError, RecursionError):
        raise FormatError("a proposal is a JSON object; this is no JSON") from None
    actions = root.get("actions") if type(root) is dict else None
    if type(actions) is not list or not 0 < len(actions) <= ACTIONS_MAX:
        raise FormatError(f"a proposal is a JSON object with 1 to {ACTIONS_MAX} `actions`")
    return tuple(_action(position, action) for position, action in enumerate(actions))


def write(actions: Sequence[Action]) -> bytes:
    """The proposal with these actions, as `read` reads it."""
    found = []
    for name, node_id, valid_from, days in actions:
        arguments: dict[str, Any] = {"node_id": node_id}
        if valid_from is not None:
            arguments["valid_from"] = valid_from.astimezone(UTC).strftime("%Y%m%d%H%M%SZ")
        if days is not None:
            arguments["validity_period_days"] = days
        found.append({"name": name, "args": arguments})
    return json.dumps({"actions": found}, separators=(",", ":")).encode()


def _action(position: int, action: Any) -> Action:
    where = f"action {position}"
    name = action.get("name") if type(action) is dict else None
    if type(name) is not str or name not in _ARGUMENTS:
        shown = repr(name)[:64]
        raise FormatError(f"{where}: {shown} is no action of this service yet; there are {', '.join(_ARGUMENTS)}")
    where = f"{name} at position {position}"
    arguments = action.get("args")
    if type(arguments) is not dict or action.keys() != {"name", "args"}:
        raise FormatError(f"{where}: an action has `name` and `args`, an object, and nothing else")
    unknown = arguments.keys() - _ARGUMENTS[name]
    if unknown:
        raise FormatError(f"{where}: unknown argument {min(unknown)[:64]!r}")
    node_id = arguments.get("node_id")
    if type(node_id) is not str or _is_node_id(node_id) is None:
        raise FormatError(f"{where}: node_id must be 64 lower-case hexadecimal digits")
    days = arguments.get("validity_period_days")
    if days is not None and (type(days) is not int or days < 1):
        raise FormatError(f"{where}: validity_period_days must be a whole number of days, 1 or more")
    return Action(name, node_id, _time(where, arguments.get("valid_from")), days)


def _time(where: str, text: Any) -> datetime | None:
    """A time as CCF takes it, `20261231235959Z`, `261231235959Z` or ISO 8601; without a zone it is UTC."""
    if text is None:
        return None
    if type(text) is str and len(text) <= 40:
        try:
            form = {15: "%Y%m%d%H%M%SZ", 13: "%y%m%d%H%M%SZ"}.get(len(text))
            if form is not None and text.endswith("Z"):
                return datetime.strptime(text, form).replace(tzinfo=UTC)
            found = datetime.fromisoformat(text)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise FormatError(f"{where}: valid_from must be a time such as 20261231235959Z or 2026-12-31T23:59:59Z")


_ARGUMENTS: Final[dict[str, frozenset[str]]] = {
    REMOVE_NODE: frozenset({"node_id"}),
    TRUST_NODE: frozenset({"node_id", "valid_from", "validity_period_days"}),
}
