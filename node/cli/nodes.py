"""`ledgerd node list` and `ledgerd node retire`: which nodes a service has, and letting one of them go."""

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli.output import NODE_ID_SHOWN, Output, command
from ledgerd.node.cli.service import ServiceOptions, member_options, service_options

if TYPE_CHECKING:
    from ledgerd.network.client import Client

COLUMNS: Final = ("node_id", "status", "role", "retirement", "removable", "address")
PREFIX_MIN: Final = 8
POLL_SECONDS: Final = 0.05

_is_prefix: Final = re.compile(rf"[0-9a-f]{{{PREFIX_MIN},64}}").fullmatch


class NotRetiredError(LedgerdError):
    """It could not be done, or not in time; the message says how far it got."""

    code = "NotRetired"


@command("list")
@service_options
def node_list(output: Output, service: ServiceOptions) -> None:
    """List the nodes of a service, and which of them may be stopped.

    As the primary has committed them. `removable` nodes are not needed any more: stop them, and delete their records with `ledgerd node
    retire --delete`. `ledgerd status` asks the nodes one by one how they are.
    """
    with service.client() as client:
        rows = nodes_of(client)
    if not output.json and sys.stdout.isatty():  # pipes have whole names, to be given to other commands
        rows = [{**row, "node_id": row["node_id"][:NODE_ID_SHOWN]} for row in rows]
    output.rows("node_list", COLUMNS, rows)


def nodes_of(client: "Client") -> list[dict[str, Any]]:
    """What the service says of its nodes, one row each, sorted by status and then by name."""
    shown = client.get("/node/network/nodes", committed=True).json()["nodes"]
    removable = {node["node_id"] for node in client.get("/node/network/removable_nodes", committed=True).json()["nodes"]}
    rows = []
    for node in shown:
        name, status = node["node_id"], node["status"]
        role = ("primary" if node["primary"] else "backup") if status == "Trusted" else None
        if status != "Retired":
            retirement = None
        else:
            retirement = "complete" if name in removable else "under way"
        address = next((interface["published_address"] for interface in node["rpc_interfaces"].values()), None)
        values = (name, status, role, retirement, name in removable, address)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    order = {"Trusted": 0, "Pending": 1, "Retired": 2}
    return sorted(rows, key=lambda row: (order.get(row["status"], 3), row["node_id"]))


@command("retire")
@click.argument("node_id")
@member_options
@click.option("--delete", "deletes", is_flag=True, help="Delete the node's record afterwards, too.")
@service_options
def node_retire(output: Output, service: ServiceOptions, member: tuple[Path, Path], node_id: str, deletes: bool) -> None:
    """Retire a node: the others go on without it.

    NODE_ID is its name, or enough of it: `ledgerd node list`. A member signs the proposal. The command waits until nobody needs the node
    any more; stop it then, or let it end by itself a minute later. A node that still waits to be trusted is forgotten at once.

    The service refuses to let its last node go, and one that is up when too few of the others are.
    """
    if _is_prefix(node_id) is None:
        raise ConfigurationError(f"{node_id!r} is no node's name: give {PREFIX_MIN} to 64 of its lower-case hexadecimal digits")
    from ledgerd.network.client import Member  # noqa: PLC0415

    signer = Member(*member)
    deadline = time.monotonic() + service.timeout
    with service.client() as client:
        node = _find(nodes_of(client), node_id)
        name = node["node_id"]
        fields: dict[str, Any] = {"node_id": name, "proposal_id": None, "transaction_id": None}
        if node["status"] == "Retired":
            output.note(f"{name[:NODE_ID_SHOWN]}... was retired before")
        else:
            fields |= _propose(output, client, signer, name)
        if node["status"] != "Pending":
            _await_removable(client, name, deadline)
            output.note("RetiredCommitted: nobody needs it any more; it may be stopped")
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


def _propose(output: Output, client: "Client", signer: Any, name: str) -> dict[str, Any]:
    from ledgerd.governance.actions import REMOVE_NODE, Action  # noqa: PLC0415

    output.note(f"{name[:NODE_ID_SHOWN]}...: proposed by member {signer.id[:NODE_ID_SHOWN]}...")
    call = signer.proposal(Action(REMOVE_NODE, name))
    answer = client.submit(call.method, call.path, call.body, headers=call.headers)
    proposal = answer.json()
    output.note(f"Ordered, Signed, Completed: it takes no part in what follows transaction {answer.transaction_id}, which is committed")
    return {"proposal_id": proposal["proposalId"], "transaction_id": str(answer.transaction_id)}


def _await_removable(client: "Client", name: str, deadline: float) -> None:
    """Return when the primary has committed the record that ends the retirement."""
    while True:
        nodes = client.get("/node/network/removable_nodes", committed=True).json()["nodes"]
        if any(node["node_id"] == name for node in nodes):
            return
        if time.monotonic() > deadline:
            raise NotRetiredError(
                f"{name[:NODE_ID_SHOWN]}... is retired, but the record that nobody needs it is not committed yet; do not stop it, "
                "and run this command again"
            )
        time.sleep(POLL_SECONDS)
