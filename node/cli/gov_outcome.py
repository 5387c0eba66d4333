"""Sends what a member has signed, and tells what came of it and what to do next.

Not here: signing (`cli.gov_signing`).
"""

import json
import re
from typing import TYPE_CHECKING, Any, Final

from ledgerd.governance import requests, tables
from ledgerd.ledger.errors import ConfigurationError, FormatError, LedgerdError
from ledgerd.node.cli.output import Output
from ledgerd.node.cli.parameters import PREFIX_MIN, is_id, is_prefix
from ledgerd.node.cli.service import ServiceOptions
from ledgerd.node.findings import readable

if TYPE_CHECKING:
    from ledgerd.network.client import Answer, Call, Client

ACKNOWLEDGE: Final = "Nothing is acknowledged yet. Compare the digest with your copy of the ledger, then: ledgerd gov ack --digest {}"


class NotWithdrawnError(LedgerdError):
    """There is no such proposal to be withdrawn."""

    code = "NotWithdrawn"


class NotTakenError(LedgerdError):
    """The service refuses what a member has signed; nothing has changed."""

    code = "RequestRefused"


class NoSuchProposalError(LedgerdError):
    """The service knows no such proposal, or several."""

    code = "NoSuchProposal"


def read(client: "Client", path: str) -> Any:
    """JSON at `/gov/PATH`, as the primary has committed it."""
    return get(client, path).json()


def get(client: "Client", path: str) -> "Answer":
    """What is at `/gov/PATH`."""
    from ledgerd.network.client.members import API_VERSION  # noqa: PLC0415

    return client.get(f"/gov/{path}?api-version={API_VERSION}", committed=True)


def check_proposal_name(name: str, *, whole: bool = False) -> str:
    """A proposal's name as it was given, or its first digits. Raises: ConfigurationError: It is neither."""
    name = name.removesuffix("...")
    if (is_id if whole else is_prefix)(name) is None:
        digits = "it has 64 lower-case hexadecimal digits" if whole else f"give {PREFIX_MIN} to 64 of its lower-case hexadecimal digits"
        raise ConfigurationError(f"{name[:80]!r} is no proposal's name: {digits}; `ledgerd gov proposals` lists all")
    return name


def find_proposal(client: "Client", name: str) -> str:
    """The whole name of a proposal. Raises: NoSuchProposalError: No proposal's name begins so, or several."""
    if is_id(name):
        return name
    found = [one["proposalId"] for one in read(client, "members/proposals")["value"] if one["proposalId"].startswith(name)]
    if len(found) != 1:
        how = "no proposal" if not found else f"{len(found)} proposals"
        raise NoSuchProposalError(
            f"{how} of this service {'has a name that begins' if len(found) == 0 else 'have names that begin'} with {name}"
        )
    whole: str = found[0]
    return whole


def send(output: Output, service: ServiceOptions, call: "Call", *, schema: str, **more: Any) -> None:
    """Send what was signed, and say what came of it.

    Args: more: what else to say of it.
    """
    with service.client() as client:
        deliver(output, client, call, schema=schema, **more)


def deliver(output: Output, client: "Client", call: "Call", *, schema: str, **more: Any) -> None:
    """As `send`, by a client that is there."""
    signed = requests.read(call.body)
    answer = submit(client, call)
    fields: dict[str, Any] = {**more, "member_id": signed.member_id}
    if signed.kind in (requests.PROPOSAL, requests.BALLOT, requests.WITHDRAWAL):
        _tell_proposal(output, client, answer, signed, schema, fields)
    elif signed.kind == requests.RECOVERY_SHARE:
        output.record(schema, {**fields, **{_snake(name): value for name, value in _object(answer).items()}})
    else:
        digest = answer.json()["stateDigest"] if signed.kind == requests.STATE_DIGEST else json.loads(signed.payload)["stateDigest"]
        status = read(client, f"service/members/{signed.member_id}")["status"]
        output.record(schema, {**fields, "state_digest": digest, "acknowledged": signed.kind == requests.ACK, "status": status})
        if signed.kind == requests.STATE_DIGEST:
            output.note(ACKNOWLEDGE.format(digest))


def submit(client: "Client", call: "Call") -> "Answer":
    """Send what was signed. Raises: NotTakenError: The service refuses it, and there is something to be done about that."""
    from ledgerd.network.client import RequestRefused  # noqa: PLC0415

    try:
        return client.submit(call.method, call.path, call.body, headers=call.headers)
    except RequestRefused as error:
        advice = _ADVICE.get(error.error_code)
        told = readable(str(error)) if advice is None else f"{error}\n{advice}"
        if told == str(error):
            raise
        raise NotTakenError(told) from None


_ADVICE: Final = {
    "InvalidAuthenticationInfo": "Active members may: `ledgerd gov members`. Who is Accepted acknowledges first: ledgerd gov ack",
    "InvalidCreatedAt": "When it was signed is said by the clock of the machine that signed it: set that, and sign anew.",
    "ProposalCreatedTooLongAgo": "Others proposed much since this was signed, or its signer's clock is slow. Sign it anew.",
    "ProposalReplay": "Nothing was proposed twice: look for it with `ledgerd gov proposals`, or sign it anew.",
    "VoteAlreadyExists": "A vote cannot be changed. The proposer may withdraw the proposal, and make it anew.",
}


def _tell_proposal(
    output: Output, client: "Client", answer: "Answer", signed: requests.SignedRequest, schema: str, fields: dict[str, Any]
) -> None:
    if answer.status == 204:
        raise NotWithdrawnError(f"the service knows no proposal {signed.proposal_id}: it never was, or others were decided since")
    found = _object(answer)
    active = count_active(read(client, "service/members")["value"])
    shown = {
        "proposal_id": found["proposalId"],
        "state": found["proposalState"],
        "ballots": found["ballotCount"],
        "active_members": active,
        **fields,
        "transaction_id": None if answer.transaction_id is None else str(answer.transaction_id),
    }
    if output.json:
        details = {"final_votes": found.get("finalVotes"), "vote_failures": found.get("voteFailures"), "failure": found.get("failure")}
        output.record(schema, {**shown, **details})
    else:
        votes = found.get("finalVotes") or {}
        yes = sum(vote is True for vote in votes.values())
        output.record(schema, {**shown, **({"votes": f"{yes} for, {len(votes) - yes} against"} if votes else {})})
    output.note(next_step(found, active))


def next_step(found: dict[str, Any], active: int) -> str:
    """What a proposal's state means, and what to do about it.

    Args: found: As the service tells of it. active: How many members may vote.
    """
    name, state = found["proposalId"], found["proposalState"]
    if state == tables.OPEN:
        look = f"Open: {voted(found, active)}. Look at it with: ledgerd gov diff {name}"
        if found["ballotCount"] < active:
            return f"{look}\nOthers vote with: ledgerd gov vote {name} --for (or --against)"
        return f"{look}\nVotes stay as they are. Its proposer may take it back: ledgerd gov withdraw {name}"
    why = found.get("failure") or {}
    meanings = {
        tables.ACCEPTED: "Accepted: what it proposes is done.",
        "Rejected": "Rejected: nothing of it is done. It cannot be voted on any more; propose anew.",
        tables.WITHDRAWN: "Withdrawn: nothing of it is done.",
        "Dropped": "Dropped: another proposal changed what it would mean. Propose it anew.",
        "Failed": f"Failed: nothing of it is done: {why.get('reason', 'the service gives no reason')}",
    }
    return meanings.get(state, f"{state}.")


def voted(found: dict[str, Any], active: int) -> str:
    """How many have voted on an open proposal. Args: as of `next_step`."""
    ballots = found["ballotCount"]
    return f"{ballots} of {active} active members {'has' if ballots == 1 else 'have'} voted"


def count_active(members: list[dict[str, Any]]) -> int:
    """How many of the members, as the service tells of them, may vote now."""
    return sum(member["status"] == tables.ACTIVE for member in members)


def _object(answer: "Answer") -> dict[str, Any]:
    found = answer.json()
    if not isinstance(found, dict):
        raise FormatError("the service answered with JSON that is no object")
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: f"_{match[1].lower()}", name)
