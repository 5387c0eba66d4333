"""`ledgerd node list` and `ledgerd node retire`: which nodes a service has, and letting one of them go."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli.output import EXIT_FAILED, NODE_ID_SHOWN, Ended, Output, command
from ledgerd.node.cli.parameters import PREFIX_MIN, is_prefix
from ledgerd.node.cli.service import ServiceOptions, member_options, service_options

if TYPE_CHECKING:
    from ledgerd.network.client import Client, Member

COLUMNS: Final = ("node_id", "status", "role", "stored", "silent_ms", "retirement", "removable", "address")
DROPPED: Final = ("stored", "retirement", "silent_ms")  # where a terminal is too narrow, in this order
ASIDE_SECONDS_MAX: Final = 3.0  # for what is good to know, beside what was asked for
POLL_SECONDS: Final = 0.05
UNAUTHORIZED: Final = 401

WITHOUT_MAJORITY: Final = (
    "Without a majority nothing is committed, and no node retires. `ledgerd status` shows who answers: let those that are up reach each "
    "other again. Nodes that have ended do not come back; if they are half of the trusted ones or more, the service has ended with them."
)


class NoAnswerError(LedgerdError):
    """There is nobody to ask."""

    code = "NoAnswer"


class NotRetiredError(LedgerdError):
    """It could not be done, or not in time; the message says how far it got."""

    code = "NotRetired"


@command("list")
@service_options
def node_list(output: Output, service: ServiceOptions) -> None:
    """List the nodes of a service, and which of them may be stopped.

    As the primary has committed them. `removable` nodes are not needed any more: stop them, and delete their records with `ledgerd node
    retire --delete`. Of each backup the primary says up to which seqno it has stored everything, and for how many milliseconds it has been
    silent: one that is silent for longer than an election timeout counts as down. `ledgerd status` asks the nodes themselves.

    If no majority confirms it, the list is what one node last knew, and the exit status 1.
    """
    from ledgerd.network.client import RetryBudgetExhausted  # noqa: PLC0415

    doubt = None
    with service.client() as client:
        try:
            rows = nodes_of(client)
        except RetryBudgetExhausted as error:
            doubt = str(error)
    if doubt is None:
        _add_progress(service, rows)
    else:
        rows = _last_known(service, doubt)
    output.rows("node_list", COLUMNS, rows, droppable=DROPPED, named="node_id", confirmed=doubt is None)
    if doubt is not None:
        output.note(f"No majority of the nodes confirms this, it is what one of them last knew ({doubt}).")
        output.note(WITHOUT_MAJORITY)
        raise Ended(EXIT_FAILED)


def nodes_of(client: "Client", *, committed: bool = True) -> list[dict[str, Any]]:
    """What the service says of its nodes, one row each, sorted by status and then by name; or, not `committed`, what one node knows."""
    shown = client.get("/node/network/nodes", committed=committed).json()["nodes"]
    removable = {node["node_id"] for node in client.get("/node/network/removable_nodes", committed=committed).json()["nodes"]}
    rows = []
    for node in shown:
        name, status = node["node_id"], node["status"]
        role = ("primary" if node["primary"] else "backup") if status == "Trusted" else None
        if status != "Retired":
            retirement = None
        else:
            retirement = "complete" if name in removable else "under way"
        address = next((interface["published_address"] for interface in node["rpc_interfaces"].values()), None)
        values = (name, status, role, None, None, retirement, name in removable, address)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    order = {"Trusted": 0, "Pending": 1, "Retired": 2}
    return sorted(rows, key=lambda row: (order.get(row["status"], 3), row["node_id"]))


def _add_progress(service: ServiceOptions, rows: list[dict[str, Any]]) -> None:
    """Add how far the backups are, which only the primary knows. Where it cannot be asked, the list is good without."""
    address = next((row["address"] for row in rows if row["role"] == "primary"), None)
    if address is None:
        return
    try:
        with service._replace(urls=(f"https://{address}",), timeout=min(service.timeout, ASIDE_SECONDS_MAX)).client() as primary:
            peers = primary.get("/node/consensus").json()["details"]["acks"]
        for row in rows:
            if row["node_id"] in peers:
                row["stored"], row["silent_ms"] = peers[row["node_id"]]["seqno"], peers[row["node_id"]]["last_received_ms"]
    except (LedgerdError, ValueError, KeyError, TypeError, AttributeError):
        return


def _last_known(service: ServiceOptions, doubt: str) -> list[dict[str, Any]]:
    """What any node knows that answers. Raises: NoAnswerError: None does."""
    try:
        with service._replace(timeout=min(service.timeout, ASIDE_SECONDS_MAX)).client() as client:
            return [{**row, "role": None} for row in nodes_of(client, committed=False)]  # who leads, if anybody does, it cannot know
    except LedgerdError:
        raise NoAnswerError(
            f"no node answers ({doubt}); are these their addresses, {', '.join(service.urls)}, and can this machine reach them?"
        ) from None


@command("retire")
@click.argument("node_id")
@member_options
@click.option("--delete", "deletes", is_flag=True, help="Delete the node's record afterwards, too.")
@service_options
def node_retire(output: Output, service: ServiceOptions, member: tuple[Path, Path], node_id: str, deletes: bool) -> None:
    """Retire a node: the others go on without it.

    NODE_ID is its name, or enough of it: `ledgerd node list`. A member signs the proposal. Where members vote, it ends with status 1
    and says how; run it again when they have accepted. Then the command waits until nobody needs the node any more; stop it then, or let
    it end by itself a minute later. A node that still waits to be trusted is forgotten at once.

    The service refuses to let its last node go, and one that is up when too few of the others are.
    """
    node_id = node_id.removesuffix("...")  # as messages show it
    if is_prefix(node_id) is None:
        raise ConfigurationError(f"{node_id!r} is no node's name: give {PREFIX_MIN} to 64 of its lower-case hexadecimal digits")
    from ledgerd.network.client import Member, RetryBudgetExhausted  # noqa: PLC0415

    signer = Member(*member)
    deadline = time.monotonic() + service.timeout
    with service.client() as client:
        try:
            node = _find(nodes_of(client), node_id)
        except RetryBudgetExhausted as error:
            _last_known(service, str(error))  # whether anybody is there at all
            raise NotRetiredError(f"nothing was proposed: no majority of the nodes answers ({error})\n{WITHOUT_MAJORITY}") from None
        name = node["node_id"]
        fields: dict[str, Any] = {"node_id": name, "address": node["address"], "proposal_id": None, "transaction_id": None}
        if node["status"] == "Retired":
            output.note(f"{name[:NODE_ID_SHOWN]}... was retired before")
        elif (proposed := _open_proposal(client, name)) is not None:
            raise _undecided(name, proposed, "Open")
        else:
            fields |= _propose(output, client, signer, name, member[0])
        if node["status"] != "Pending":
            _await_removable(client, name, deadline)
            output.note("RetiredCommitted: nobody needs it any more; stop it, or let it end by itself a minute after it has learnt of it")
            if deletes:
                client.submit("DELETE", f"/node/network/nodes/{name}")
                output.note("its record is deleted")
    output.record("node_retire", {**fields, "removable": True, "deleted": deletes or node["status"] == "Pending"})


def _find(nodes: list[dict[str, Any]], prefix: str) -> dict[str, Any]:
    found = [node for node in nodes if node["node_id"].startswith(prefix)]
    if not found:
        raise NotRetiredError(f"the service has no node {prefix}, or its record was deleted; `ledgerd node list` lists all")
    if len(found) > 1:
        raise ConfigurationError(f"{prefix} begins the names of {len(found)} nodes; give more of it")
    return found[0]


def _propose(output: Output, client: "Client", signer: "Member", name: str, certificate: Path) -> dict[str, Any]:
    from ledgerd.governance.actions import REMOVE_NODE, Action  # noqa: PLC0415
    from ledgerd.network.client import OutcomeUnknown, RequestRefused, RetryBudgetExhausted, TransactionInvalid  # noqa: PLC0415

    output.note(f"{name[:NODE_ID_SHOWN]}...: member {signer.id[:NODE_ID_SHOWN]}... proposes that it leaves")
    call = signer.proposal(Action(REMOVE_NODE, name))
    try:
        answer = client.submit(call.method, call.path, call.body, headers=call.headers)
    except RequestRefused as error:
        if error.status != UNAUTHORIZED:
            raise
        raise NotRetiredError(f"nothing was proposed: {certificate} is not the certificate of a member of this service ({error})") from None
    except (OutcomeUnknown, RetryBudgetExhausted, TransactionInvalid) as error:
        raise NotRetiredError(
            f"{name[:NODE_ID_SHOWN]}... is proposed to leave, and no majority of the nodes has confirmed it ({error})\n"
            "Do not stop it. Run this command again: it goes on from what the service knows by then."
        ) from None
    proposal = answer.json()
    if proposal["proposalState"] != "Accepted":
        raise _undecided(name, proposal["proposalId"], proposal["proposalState"])
    output.note(f"Ordered, Signed, Completed: it takes no part in what follows transaction {answer.transaction_id}, which is committed")
    return {"proposal_id": proposal["proposalId"], "transaction_id": str(answer.transaction_id)}


def _undecided(name: str, proposal_id: str, state: str) -> NotRetiredError:
    """Of a node that members decide about: until they have, it is one like any other."""
    return NotRetiredError(
        f"{name[:NODE_ID_SHOWN]}... is proposed to leave, and is not retired: proposal {proposal_id} is {state}, members vote on it\n"
        f"Do not stop it. They vote with: ledgerd gov vote {proposal_id} --for\n"
        "Once it is Accepted, run this command again: it waits until the node may be stopped."
    )


def _open_proposal(client: "Client", name: str) -> str | None:
    """The proposal on which members vote already, if there is one that this node leaves and nothing else.

    Asked for before anything is signed, so that who runs the command again does not propose again.
    """
    from ledgerd.governance.actions import REMOVE_NODE  # noqa: PLC0415
    from ledgerd.node.cli.gov_outcome import read  # noqa: PLC0415

    for one in read(client, "members/proposals")["value"]:
        if one["proposalState"] != "Open":
            continue
        wanted = read(client, f"members/proposals/{one['proposalId']}/actions")["actions"]
        if [(action.get("name"), (action.get("args") or {}).get("node_id")) for action in wanted] == [(REMOVE_NODE, name)]:
            found: str = one["proposalId"]
            return found
    return None


def _await_removable(client: "Client", name: str, deadline: float) -> None:
    """Return when the primary has committed the record that ends the retirement."""
    from ledgerd.network.client import RetryBudgetExhausted  # noqa: PLC0415

    why = "the primary has not come to it"
    while True:
        try:
            nodes = client.get("/node/network/removable_nodes", committed=True).json()["nodes"]
        except RetryBudgetExhausted as error:
            why = str(error)
            break
        if any(node["node_id"] == name for node in nodes):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    raise NotRetiredError(
        f"{name[:NODE_ID_SHOWN]}... is retired, but the record that nobody needs it is not committed yet ({why})\n"
        "Do not stop it, and run this command again."
    )
