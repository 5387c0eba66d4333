"""`ledgerd status`: the service and its nodes, each asked for itself."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ledgerd.ledger.errors import LedgerdError
from ledgerd.node.cli import expiry
from ledgerd.node.cli.output import EXIT_FAILED, NODE_ID_SHOWN, Ended, Output, command
from ledgerd.node.cli.service import ServiceOptions, service_options

if TYPE_CHECKING:
    from ledgerd.network.client import Client

_Told = TypeVar("_Told")

NODES_MAX = 64
MORE_SECONDS_MAX = 3.0  # for what is told besides
DROPPED = ("node_id", "last_signed", "view")  # where a terminal is too narrow, in this order
FIELDS = ("certificate_until",)  # in JSON, beside the columns
COLUMNS = ("url", "node_id", "state", "role", "view", "committed", "last_signed", "problem")


@command("status")
@service_options
def status(output: Output, service: ServiceOptions) -> None:
    """Show the service and its nodes.

    Nodes that the named ones know of are asked too. Exit status 1 if the service is not open, no node answers, or none leads: then
    nothing is committed, for the moment of an election or until a majority is heard again.

    Certificates that end within 30 days are told, with what members propose to renew them; and token issuers (JWT) whose keys the primary
    cannot refresh.
    """
    from ledgerd.network.client.members import API_VERSION  # noqa: PLC0415

    with service.client() as client:
        urls = list(client.nodes)
    rows: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of nodes, by URL, as others say: for those that do not answer
    service_status = primary = answering = None
    service_certificate: Any = None
    at = 0
    while at < len(urls):
        row: dict[str, Any] = {**dict.fromkeys((*COLUMNS, *FIELDS)), "url": urls[at]}
        at += 1
        rows.append(row)
        try:
            with service._replace(urls=(row["url"],), timeout=min(service.timeout, 3.0)).client() as node:
                network, known = _ask(node, row)
        except (LedgerdError, ValueError, KeyError, TypeError, AttributeError) as error:
            row["problem"] = str(error) or type(error).__name__
            continue
        service_status = service_status or network.get("service_status")
        primary = primary or network.get("primary_id")
        service_certificate = service_certificate or network.get("service_certificate")
        answering = answering or (row["url"] if network else None)
        names |= known
        for url in known:
            if url not in urls and len(urls) < NODES_MAX and not _same_node(url, urls):
                urls.append(url)
    for row in rows:
        row["node_id"] = row["node_id"] or names.get(row["url"])
    nodes = _told(service, answering, f"/gov/service/nodes?api-version={API_VERSION}", _certificates)
    ends = {name: expiry.until(pem) for name, pem in nodes.items()}
    for row in rows:
        row["certificate_until"] = _said(ends.get(row["node_id"]))
    service_end = expiry.until(service_certificate)
    leading = next((row["url"] for row in rows if row["role"] == "primary"), None)
    failing = _told(service, leading, "/node/jwt_keys/refresh/metrics", _failing_issuers)
    shown = rows if output.json else [{**row, "node_id": row["node_id"] and row["node_id"][:NODE_ID_SHOWN]} for row in rows]
    terminal = not output.json and sys.stdout.isatty()
    columns = [column for column in COLUMNS if column != "problem"] if terminal else COLUMNS
    more: dict[str, Any] = {"service_certificate_until": _said(service_end), "token_issuers_failing": failing}
    output.rows("status", columns, shown, droppable=DROPPED, service_status=service_status, **more)
    if terminal:  # a problem is a sentence, and would take the other columns' room
        for row in rows:
            if row["problem"] is not None:
                output.note(f"{row['url']}: {row['problem']}")
    output.note(f"service: {service_status or 'no node answers'}")
    for warning in expiry.warnings(service_end, ends, datetime.now(UTC)):
        output.note(warning)
    for issuer, reason in failing.items():
        output.note(f"keys of JWT issuer {issuer} are not refreshed, and those that were there count: {reason}")
    if service_status is not None and primary is None:
        output.note("No node leads, so nothing is committed: an election is going on, or no majority of the nodes hear each other.")
    if service_status != "Open" or primary is None:
        raise Ended(EXIT_FAILED)


def _told(service: ServiceOptions, url: str | None, path: str, read: Callable[[Any], dict[str, _Told]]) -> dict[str, _Told]:
    """What `read` makes of one node's answer; nothing if there is no such node, or it does not say."""
    if url is None:
        return {}
    try:
        with service._replace(urls=(url,), timeout=min(service.timeout, MORE_SECONDS_MAX)).client() as node:
            return read(node.get(path).json())
    except (LedgerdError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _certificates(answer: Any) -> dict[str, Any]:
    """The certificates of the trusted nodes, by their names."""
    return {str(each["nodeId"]): each.get("certificate") for each in answer["value"] if each["status"] == "Trusted"}


def _failing_issuers(answer: Any) -> dict[str, str]:
    """Token issuers whose last refresh has failed, with the reason."""
    return {name: str(issuer["last_failure"]) for name, issuer in answer["issuers"].items() if issuer["failures_in_a_row"]}


def _said(end: datetime | None) -> str | None:
    return None if end is None else f"{end:%Y-%m-%dT%H:%M:%SZ}"


def _ask(node: "Client", row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fill in the row of a node. Returns: What it says of the service; the names of the nodes that it trusts, by URL."""
    state = node.get("/node/state").json()
    row["node_id"] = str(state["node_id"])
    row["state"] = state["state"]
    row["last_signed"] = state.get("last_signed_seqno")
    if state.get("retired"):  # it would show us to the others for anything else
        row["role"] = "retired"
        return {}, {}
    network: dict[str, Any] = node.get("/node/network").json()
    row["role"] = "primary" if network.get("primary_id") == state["node_id"] else "backup"
    row["view"] = network.get("current_view")
    row["committed"] = node.get("/node/commit").json()["transaction_id"]
    found = {}
    for other in node.get("/node/network/nodes").json().get("nodes", []):
        for interface in (other.get("rpc_interfaces") or {}).values():
            address = interface.get("published_address")
            if other.get("status") == "Trusted" and isinstance(address, str) and urlsplit(f"https://{address}").port:
                found[f"https://{address}"] = str(other["node_id"])
    return network, found


def _same_node(url: str, urls: list[str]) -> bool:
    """localhost and 127.0.0.1 are one machine, and on one machine a port is one node."""
    local = {"localhost", "127.0.0.1", "::1"}
    parts = urlsplit(url)
    return parts.hostname in local and any(urlsplit(known).hostname in local and urlsplit(known).port == parts.port for known in urls)
