"""`ledgerd gov vote`: a member's ballot, which is a script. `--for` and `--against` are the two shortest.

Not here: signing (`cli.gov_signing`), counting, which the constitution does.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledgerd.governance import tables
from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli import gov_files, gov_outcome, gov_signing
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import FILE
from ledgerd.node.cli.service import ServiceOptions, Signing, node_options, signing_options

if TYPE_CHECKING:
    from ledgerd.network.client import Client

FOR: Final = "export function vote(rawProposal, proposerId) { return true; }"
AGAINST: Final = "export function vote(rawProposal, proposerId) { return false; }"
_SCRIPT_BYTES_MAX: Final = 1 << 20


class NotOpenError(LedgerdError):
    """The proposal is decided: nothing was signed."""

    code = "NotOpen"


@command("vote")
@click.argument("proposal")
@click.option("--for", "says", flag_value="for", help="Vote yes.")
@click.option("--against", "says", flag_value="against", help="Vote no.")
@click.option("--script", type=FILE, help="Vote by a script: JavaScript that exports vote(rawProposal, proposerId), true for yes.")
@signing_options
@node_options
def gov_vote(output: Output, service: ServiceOptions, signing: Signing, proposal: str, says: str | None, script: Path | None) -> None:
    """Vote on a proposal: for it, against it, or by a script.

    PROPOSAL is its name, or the first digits of it: `ledgerd gov proposals`. Look at what it would change first, with `ledgerd gov diff`.
    A vote cannot be changed. A script is run at every count anew, and is asked what it says then.
    """
    if (says is None) is (script is None):
        raise ConfigurationError("how do you vote? Give one of --for, --against and --script FILE")
    name = gov_outcome.check_proposal_name(proposal, whole=signing.prepare is not None and not service.urls)
    ballot = FOR if says == "for" else AGAINST if says == "against" else _script(script)
    who = gov_signing.signatory(signing)
    from ledgerd.network.client import members  # noqa: PLC0415

    if signing.prepare is not None and not service.urls:  # offline: nobody can be asked what is open
        gov_signing.sign(output, signing, who, members.ballot(name, ballot))
        return
    with service.client() as client:
        found = _open(client, name)
        call = gov_signing.sign(output, signing, who, members.ballot(found["proposalId"], ballot))
        if call is not None:
            gov_outcome.deliver(output, client, call, schema="gov_vote", vote=says or "script")


def _open(client: "Client", name: str) -> dict[str, Any]:
    """An open proposal. Raises: NotOpenError: It is decided."""
    proposal_id = gov_outcome.find_proposal(client, name)
    found: dict[str, Any] = gov_outcome.read(client, f"members/proposals/{proposal_id}")
    if found["proposalState"] != tables.OPEN:
        raise NotOpenError(f"proposal {proposal_id} is {found['proposalState']}; votes are for open ones. Nothing was signed")
    return found


def _script(file: Path | None) -> str:
    script = gov_files.read_text(str(file), _SCRIPT_BYTES_MAX)
    if "vote" not in script:
        raise ConfigurationError(f"{file} has no function vote, which a ballot exports: {FOR}")
    return script
