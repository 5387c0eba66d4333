"""`ledgerd tx`: submit transactions, and ask what became of them."""

from pathlib import Path
from typing import Any

import click

from ledgerd.ledger.ids import TransactionId
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import TRANSACTION_ID
from ledgerd.node.cli.service import ServiceOptions, service_options


@command("submit")
@click.argument("method", type=click.Choice(["GET", "PUT", "POST", "DELETE", "PATCH"], case_sensitive=False), metavar="METHOD")
@click.argument("path")
@click.option("-d", "--data", help="Body, as text.")
@click.option("--data-file", type=click.File("rb"), help="Body, from a file; - reads standard input.")
@click.option("--content-type", help="Type of the body.  [default: application/json if it starts with { or [, else text/plain]")
@click.option("--no-wait", is_flag=True, help="Do not wait for commit.")
@click.option("--receipt", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write the COSE receipt here, verified.")
@click.option("--idempotency-key", metavar="KEY", help="Your own key: the same request with the same key is executed once.")
@service_options
def tx_submit(
    output: Output,
    service: ServiceOptions,
    method: str,
    path: str,
    data: str | None,
    data_file: Any,
    content_type: str | None,
    no_wait: bool,
    receipt: Path | None,
    idempotency_key: str | None,
) -> None:
    """Submit a transaction and wait until it is committed.

    It is executed at most once, however often it must be sent. Example:

      ledgerd tx submit PUT /app/records/42 --data hello
    """
    if data is not None and data_file is not None:
        raise click.UsageError("--data and --data-file exclude each other")
    body = data.encode() if data is not None else data_file.read() if data_file is not None else b""
    if content_type is None and body:
        content_type = "application/json" if body[:1] in (b"{", b"[") else "text/plain"
    with service.client() as client:
        answer = client.submit(
            method.upper(),
            path,
            body,
            headers={"content-type": content_type} if content_type else None,
            commit=not no_wait,
            receipt=receipt is not None,
            idempotency_key=idempotency_key,
        )
    fields: dict[str, Any] = {
        "transaction_id": None if answer.transaction_id is None else str(answer.transaction_id),
        # A request that touches no map, such as GET /app/api, is no transaction, and has none's status.
        "status": "Committed" if answer.committed else None if answer.transaction_id is None else "Pending",
        "http_status": answer.status,
    }
    if answer.body:
        fields["body"] = answer.body.decode("utf-8", "backslashreplace")
    if receipt is not None and answer.receipt is not None:
        receipt.write_bytes(answer.receipt)
        fields["receipt"] = str(receipt)
    output.record("tx_submit", fields)


@command("status")
@click.argument("transaction_id", type=TRANSACTION_ID)
@click.option("--wait", is_flag=True, help="Wait until it is committed.")
@service_options
def tx_status(output: Output, service: ServiceOptions, transaction_id: TransactionId, wait: bool) -> None:
    """Show whether a transaction is committed.

    Unknown: the node asked has not heard of it yet. Pending: executed, and could still be undone. Committed and Invalid are final; exit
    status 1 for Invalid, and for whatever is not Committed in time with --wait.
    """
    with service.client() as client:
        if wait:
            client.wait_for_commit(transaction_id)
        status = client.status(transaction_id)
    output.record("tx_status", {"transaction_id": str(transaction_id), "status": status})
    if status == "Invalid":
        raise Ended(EXIT_FAILED)
