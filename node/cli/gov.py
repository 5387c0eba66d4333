"""`ledgerd gov`: what governance has recorded, and what a member says to it.

Reads are of what the primary has committed. Not here: `propose`, `vote`, `show`, `diff`, which have modules of their own beside this one;
`ledgerd node retire`.
"""

from typing import TYPE_CHECKING, Any, Final

import click

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli import gov_outcome, gov_signing
from ledgerd.node.cli.gov_outcome import read
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import is_id
from ledgerd.node.cli.service import ServiceOptions, Signing, node_options, service_options, signing_options

if TYPE_CHECKING:
    from ledgerd.network.client import Call
    from ledgerd.network.client.members import Signatory, Statement

_MEMBERS: Final = ("member_id", "status", "recovery_role", "member_data")
_USERS: Final = ("user_id", "user_data")
_PROPOSALS: Final = ("proposal_id", "state", "ballots", "proposer_id")
_POLICY: Final = ("platform", "what", "accepted")


class StateMismatchError(LedgerdError):
    """The state to be acknowledged is not the one that was expected; nothing was acknowledged."""

    code = "StateMismatch"


@command("members")
@service_options
def gov_members(output: Output, service: ServiceOptions) -> None:
    """List the members: who governs.

    A member that is Accepted does not vote yet: it has to acknowledge the service's state first, with `ledgerd gov ack`.
    """
    rows = [
        {
            "member_id": member["memberId"],
            "status": member["status"],
            "recovery_role": member["recoveryRole"],
            "member_data": member["memberData"],
            "certificate": member.get("certificate"),
            "public_encryption_key": member.get("publicEncryptionKey"),
        }
        for member in _read(service, "service/members")["value"]
    ]
    output.rows("gov_members", _MEMBERS, rows, named="member_id")


@command("users")
@service_options
def gov_users(output: Output, service: ServiceOptions) -> None:
    """List the users: who may use the application."""
    rows = [
        {"user_id": user["userId"], "user_data": user["userData"], "certificate": user["certificate"]}
        for user in _read(service, "service/users")["value"]
    ]
    output.rows("gov_users", _USERS, rows, named="user_id")


@command("service")
@service_options
def gov_service(output: Output, service: ServiceOptions) -> None:
    """Show the service: its status, its certificate, and its configuration."""
    info = _read(service, "service/info")
    configuration = info.get("configuration", {})
    output.record(
        "gov_service",
        {
            "status": info["status"],
            "created_by": info.get("creationTransactionId"),
            "recovery_count": info["recoveryCount"],
            "service_data": info["serviceData"],
            "recovery_threshold": configuration.get("recoveryThreshold"),
            "node_certificate_days": configuration.get("maximumNodeCertificateValidityDays"),
            "service_certificate_days": configuration.get("maximumServiceCertificateValidityDays"),
            "recent_proposals": configuration.get("recentCoseProposalsWindowSize"),
            "certificate": info["certificate"],
        },
    )


@command("policy")
@service_options
def gov_policy(output: Output, service: ServiceOptions) -> None:
    """List what a node has to show to join: each image, root, or the like that is accepted."""
    policy = _read(service, "service/join-policy")
    rows = [
        *(_line("nitro", "image", ":".join(image[name] for name in ("PCR0", "PCR1", "PCR2"))) for image in policy["nitro"]["measurements"]),
        *(_line("nitro", "root", fingerprint, pem) for fingerprint, pem in policy["nitro"]["roots"].items()),
        *(_line("snp", "measurement", measurement) for measurement in policy["snp"]["measurements"]),
        *(_line("snp", "host data", digest, data) for digest, data in policy["snp"]["hostData"].items()),
        *(_line("snp", "UVM endorsement", did, feeds) for did, feeds in policy["snp"]["uvmEndorsements"].items()),
        *(_line("snp", "firmware", cpuid, least) for cpuid, least in policy["snp"]["tcbVersions"].items()),
    ]
    output.rows("gov_policy", _POLICY, rows)


def _line(platform: str, what: str, accepted: str, detail: Any = None) -> dict[str, Any]:
    return {"platform": platform, "what": what, "accepted": accepted, "detail": detail}


@command("constitution")
@click.option("--default", "shipped", flag_value="default", help="The one that comes with this program, not the service's: by vote.")
@click.option("--sandbox", "shipped", flag_value="sandbox", help="The other one that comes with it: one member's word is enough.")
@node_options
def gov_constitution(output: Output, service: ServiceOptions, shipped: str | None) -> None:
    """Print the rules by which members govern, in JavaScript."""
    if shipped is None:
        with service.client() as client:
            text = gov_outcome.get(client, "service/constitution").text
    else:
        from ledgerd.node.constitution import default_constitution  # noqa: PLC0415

        text = default_constitution("vote" if shipped == "default" else "automatic")
    output.text("gov_constitution", "constitution", text)


@command("proposals")
@service_options
def gov_proposals(output: Output, service: ServiceOptions) -> None:
    """List the proposals that are open, and the last one that was decided."""
    rows = [
        {
            "proposal_id": proposal["proposalId"],
            "state": proposal["proposalState"],
            "ballots": proposal["ballotCount"],
            "proposer_id": proposal["proposerId"],
            "final_votes": proposal.get("finalVotes"),
            "vote_failures": proposal.get("voteFailures"),
            "failure": proposal.get("failure"),
        }
        for proposal in _read(service, "members/proposals")["value"]
    ]
    output.rows("gov_proposals", _PROPOSALS, rows, named="proposer_id")


@command("ack")
@signing_options
@click.option("--ask", "only_asks", is_flag=True, help="Only ask for the digest of the present state; acknowledge nothing.")
@click.option("--digest", metavar="HEX", help="Acknowledge this digest, that was asked for before, and no other.")
@node_options
def gov_ack(output: Output, service: ServiceOptions, signing: Signing, only_asks: bool, digest: str | None) -> None:
    """Acknowledge the service's state: the member takes part from then on.

    The state is named by a digest: the root over the ledger that the service has signed last. To compare it with a copy of the ledger
    before signing, ask for it with --ask, and acknowledge it with --digest. Without these two, it is asked for and acknowledged at once.
    """
    if only_asks and digest is not None:
        raise ConfigurationError("--ask asks for a digest and --digest acknowledges one: give one of the two")
    if digest is not None and is_id(digest) is None:
        raise ConfigurationError(f"{digest!r} is no digest: it has 64 lower-case hexadecimal digits")
    if signing.prepare is not None and not only_asks and digest is None:
        raise ConfigurationError("what is signed elsewhere is signed one by one: first --ask, then --digest with what the service answers")
    who = gov_signing.signatory(signing)
    from ledgerd.network.client import members  # noqa: PLC0415

    if signing.prepare is not None:
        gov_signing.sign(output, signing, who, members.state_digest() if digest is None else members.acknowledgement(digest))
        return
    with service.client() as client:
        if digest is None:
            digest = str(gov_outcome.submit(client, _signed(who, members.state_digest())).json()["stateDigest"])
        else:
            asked = read(client, f"members/state-digests/{who.id}")["stateDigest"]
            if asked != digest:
                raise StateMismatchError(
                    f"the digest that was asked for last is {asked}, not {digest}; nothing was acknowledged. Look at that one, or ask anew"
                )
        if not only_asks:
            gov_outcome.submit(client, _signed(who, members.acknowledgement(digest)))
        status = read(client, f"service/members/{who.id}")["status"]
    output.record("gov_ack", {"member_id": who.id, "state_digest": digest, "acknowledged": not only_asks, "status": status})
    if only_asks:
        output.note(gov_outcome.ACKNOWLEDGE.format(digest))


@command("withdraw")
@click.argument("proposal_id")
@signing_options
@node_options
def gov_withdraw(output: Output, service: ServiceOptions, signing: Signing, proposal_id: str) -> None:
    """Withdraw a proposal: whoever made it may, as long as it is open.

    PROPOSAL_ID is its name, or the first digits of it where the service can be asked for the rest: `ledgerd gov proposals`.
    """
    name = gov_outcome.check_proposal_name(proposal_id, whole=not service.urls)
    who = gov_signing.signatory(signing)
    from ledgerd.network.client import members  # noqa: PLC0415

    if service.urls:
        with service.client() as client:
            name = gov_outcome.find_proposal(client, name)
    call = gov_signing.sign(output, signing, who, members.withdrawal(name))
    if call is not None:
        gov_outcome.send(output, service, call, schema="gov_withdraw")


def _read(service: ServiceOptions, path: str) -> dict[str, Any]:
    with service.client() as client:
        found: dict[str, Any] = read(client, path)
    return found


def _signed(who: "Signatory", statement: "Statement") -> "Call":
    from ledgerd.network.client import Member  # noqa: PLC0415

    assert isinstance(who, Member), "without --prepare it has a key"
    return who.sign(statement)
