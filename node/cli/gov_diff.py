"""`ledgerd gov diff` and `show`: what a proposal would change, before anybody votes; who made it, and how it stands.

What it would do is said by the node, which runs the constitution for members without keeping anything (docs/formats/governance.md).
Not here: values in words (`cli.gov_changes`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledgerd.governance import tables
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.node.cli import gov_changes, gov_files, gov_outcome
from ledgerd.node.cli.gov_changes import Change
from ledgerd.node.cli.gov_propose import read_proposal
from ledgerd.node.cli.gov_vote import AGAINST, FOR
from ledgerd.node.cli.output import EXIT_FAILED, NODE_ID_SHOWN, Ended, Output, command
from ledgerd.node.cli.service import ServiceOptions, node_options, reading_options
from ledgerd.node.findings import readable

if TYPE_CHECKING:
    from ledgerd.network.client import Client

Files = tuple[Path, Path]

RECORD_LINES_MAX: Final = 40  # of one record's change that `show` tells; it is mostly the text of a module or of a constitution
_AS_MEMBER: Final = "ask as a member, with --member-cert and --member-key"


@command("diff")
@click.argument("proposal", metavar="PROPOSAL|FILE")
@reading_options
@node_options
def gov_diff(output: Output, service: ServiceOptions, member: Files | None, proposal: str) -> None:
    """Show what a proposal would change, before and after.

    PROPOSAL is the name of an open one, or the first digits of it; FILE a proposal that nobody has made yet, - is standard input. The
    service applies it to its present state and keeps nothing; only members may ask. Exit status 1 if it could not be applied.
    """
    is_file = proposal == "-" or Path(proposal).is_file()
    if not is_file:
        name = gov_outcome.check_proposal_name(proposal)
    if member is None:
        raise ConfigurationError(f"only members are shown what a proposal would do: {_AS_MEMBER}")
    with _as_member(service, member) as client:
        if is_file:
            data = gov_files.read_bytes(proposal)
            read_proposal(data, proposal)
            effects = _preview(client, data)
            target: dict[str, Any] = {"proposal_id": None}
        else:
            name = gov_outcome.find_proposal(client, name)
            effects = gov_outcome.read(client, f"members/proposals/{name}/effects")
            target = {"proposal_id": name}
    changes = _changes(effects)
    output.page("gov_diff", {**target, **_effects_fields(effects, changes)}, _effects_lines(effects, changes))
    if _problem(effects) is not None:
        raise Ended(EXIT_FAILED)


@command("show")
@click.argument("proposal")
@reading_options
@node_options
def gov_show(output: Output, service: ServiceOptions, member: Files | None, proposal: str) -> None:
    """Show a proposal: who made it, what it asks for, who has voted, and what it would change.

    PROPOSAL is its name, or the first digits of it: `ledgerd gov proposals`. What it would change is shown to members, as long as it is
    open.
    """
    name = gov_outcome.check_proposal_name(proposal)
    with service.client() as client:
        name = gov_outcome.find_proposal(client, name)
        found = gov_outcome.read(client, f"members/proposals/{name}")
        text = gov_outcome.get(client, f"members/proposals/{name}/actions").body
        members = gov_outcome.read(client, "service/members")["value"]
        ballots = _ballots(client, name, [one["memberId"] for one in members], found)
    content = _content(text)
    effects, why = _effects(service, member, name) if found["proposalState"] == tables.OPEN else (None, "")
    changes = [] if effects is None else _changes(effects)
    active = gov_outcome.count_active(members)
    people = {one["memberId"]: _person(one) for one in members}
    fields = {
        "proposal_id": name,
        "state": found["proposalState"],
        "proposer_id": found["proposerId"],
        "expires_at": gov_changes.deadline_of(content),
        "active_members": active,
        "ballots": ballots,
        "final_votes": found.get("finalVotes"),
        "vote_failures": found.get("voteFailures"),
        "failure": found.get("failure"),
        "proposal": content,
        "effects": None if effects is None else _effects_fields(effects, changes),
    }
    lines = [
        f"proposal  {name}",
        f"state     {_state(found, active)}",
        f"proposer  {people.get(found['proposerId'], found['proposerId'])}",
        *([f"expires   {fields['expires_at']}"] if fields["expires_at"] else []),
        *(f"ballot    {people.get(ballot['member_id'], ballot['member_id'])}: {_said(ballot)}" for ballot in ballots),
        "asks for",
        *gov_changes.action_lines(content),
    ]
    if effects is not None:
        more = f"ledgerd gov diff {name}"
        lines += ["would change", *(f"  {line}" for line in _effects_lines(effects, changes, RECORD_LINES_MAX, more))]
    output.page("gov_show", fields, lines)
    if why:
        output.note(f"What it would change is not shown: {why}")
    if found["proposalState"] == tables.OPEN:
        output.note(f"Vote with: ledgerd gov vote {name} --for (or --against)")


# Asking.


def _as_member(service: ServiceOptions, member: Files) -> "Client":
    return service._replace(cert=member[0], key=member[1]).client()


def _preview(client: "Client", proposal: bytes) -> Any:
    from ledgerd.network.client.members import API_VERSION  # noqa: PLC0415

    path = f"/gov/members/proposals:preview?api-version={API_VERSION}"
    answer = client.submit("POST", path, proposal, headers={"content-type": "application/json"}, commit=False, idempotent=False)
    return answer.json()


def _effects(service: ServiceOptions, member: Files | None, name: str) -> tuple[Any, str]:
    """What an open proposal would do; or None, and why that is not known."""
    from ledgerd.network.client import RequestRefused, RetryBudgetExhausted  # noqa: PLC0415

    if member is None:
        return None, f"{_AS_MEMBER}."
    try:
        with _as_member(service, member) as client:
            return gov_outcome.read(client, f"members/proposals/{name}/effects"), ""
    except (RequestRefused, RetryBudgetExhausted) as error:
        return None, str(error)


def _changes(effects: Any) -> list[Change]:
    """Raises: FormatError: The service's answer is none."""
    try:
        effects["valid"], effects["description"], int(effects["changesLeftOut"])
        return gov_changes.read_changes(effects)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"the service's answer about what a proposal would do is malformed ({type(error).__name__})") from None


def _ballots(client: "Client", name: str, members: list[str], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Who has voted, and how. Only names and numbers are listed by the service, so each member is asked for."""
    from ledgerd.network.client import RequestRefused  # noqa: PLC0415

    voted = {*(found.get("finalVotes") or {}), *(found.get("voteFailures") or {})}
    ballots: list[dict[str, Any]] = []
    for member_id in dict.fromkeys([*members, *sorted(voted)]):
        if len(ballots) >= found["ballotCount"]:
            break
        try:
            script = gov_outcome.get(client, f"members/proposals/{name}/ballots/{member_id}").text
        except RequestRefused as error:
            if error.status != 404:
                raise
            continue
        ballots.append({"member_id": member_id, "says": _says(script), "script": script})
    return ballots


def _says(script: str) -> str | None:
    """What one of the two shortest scripts says; None for any other, which only the constitution can ask."""
    return {FOR: "for", AGAINST: "against"}.get(script.strip())


def _said(ballot: dict[str, Any]) -> str:
    return ballot["says"] or f"by a script, {gov_changes.shown(ballot['script'])[0]}"


def _content(text: bytes) -> Any:
    try:
        return gov_files.parse_json(text, "the proposal")
    except ConfigurationError:
        return text.decode(errors="replace")  # some constitutions take other forms; and what is nested deeply is shown as it is


def _person(member: dict[str, Any]) -> str:
    """A member, by what is said of it where that is short; its name tells one from another all the same."""
    data = member.get("memberData")
    name = data.get("name") if isinstance(data, dict) else data
    shown = f"{member['memberId'][:NODE_ID_SHOWN]}..."
    return f"{shown} ({name})" if isinstance(name, str) and len(name) <= 60 else shown


# Telling.


def _state(found: dict[str, Any], active: int) -> str:
    state: str = found["proposalState"]
    if state == tables.OPEN:
        return f"{state}: {gov_outcome.voted(found, active)}"
    failure = found.get("failure")
    return f"{state}: {failure['reason']}" if failure else state


def _problem(effects: dict[str, Any]) -> str | None:
    """Why it could not be applied; None if it could."""
    if not effects["valid"]:
        return f"it is not valid: {readable(effects['description'])}"
    return f"it could not be applied now: {effects['failure']}" if "failure" in effects else None


def _effects_fields(effects: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    return {
        "valid": effects["valid"],
        "description": effects["description"],
        "failure": effects.get("failure"),
        "changes": [gov_changes.as_json(change) for change in changes],
        "changes_left_out": effects["changesLeftOut"],
    }


def _effects_lines(effects: dict[str, Any], changes: list[Change], record_lines_max: int | None = None, more: str = "") -> list[str]:
    problem = _problem(effects)
    if problem is not None:
        return [f"nothing: {problem}"]
    lines = list(gov_changes.lines_of(changes, record_lines_max, more))
    if not lines:
        lines = ["no table; what else it does, such as ending a file of the ledger, stands in no table"]
    left_out = effects["changesLeftOut"]
    return [*lines, f"... and {left_out} more records"] if left_out else lines
