"""`ledgerd receipt`: get receipts, and verify them offline."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledgerd.ledger.errors import ConfigurationError, FormatError, LedgerdError
from ledgerd.ledger.ids import TransactionId
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import DIGEST, FILE, TRANSACTION_ID
from ledgerd.node.cli.service import SERVICE_CERT_VARIABLE, ServiceOptions, service_options

if TYPE_CHECKING:
    from ledgerd.network.client import Client


class NoReceipt(LedgerdError):
    """The service gave no receipt; the message says what to do next."""

    code = "NoReceipt"


@command("get")
@click.argument("transaction_id", type=TRANSACTION_ID)
@click.option("--form", type=click.Choice(["cose", "json"]), default="cose", show_default=True, help="Which of CCF's two forms.")
@click.option(
    "--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Where to write it.  [default: VIEW.SEQNO.cose or .json]"
)
@service_options
def receipt_get(output: Output, service: ServiceOptions, transaction_id: TransactionId, form: str, out: Path | None) -> None:
    """Get the receipt of a transaction.

    It is verified against the service's certificate before it is written.
    """
    from ledgerd.network.client.errors import RequestRefused, RetryBudgetExhausted  # noqa: PLC0415

    with service.client() as client:
        try:
            receipt = client.receipt(transaction_id, form=form)
        except (RetryBudgetExhausted, RequestRefused) as error:
            raise NoReceipt(f"{error}\n{_next_step(client, transaction_id)}") from None
    path = out or Path(f"{transaction_id}.{form}")
    path.write_bytes(receipt)
    fields = {"transaction_id": str(transaction_id), "form": form, "file": str(path), "bytes": len(receipt), "verified": True}
    output.record("receipt_get", fields)


@command("verify")
@click.argument("file", type=FILE)
@click.option(
    "--service-cert", type=FILE, envvar=SERVICE_CERT_VARIABLE, help=f"The service's certificate, PEM; needed. [env {SERVICE_CERT_VARIABLE}]"
)
@click.option("--transaction-id", type=TRANSACTION_ID, help="It must be of this transaction.")
@click.option("--claims-digest", type=DIGEST, help="It must carry these claims: their 32-byte digest.")
@click.option("--claims", type=FILE, help="It must carry these claims: a file, of which the SHA-256 is taken.")
def receipt_verify(
    output: Output,
    file: Path,
    service_cert: Path | None,
    transaction_id: TransactionId | None,
    claims_digest: bytes | None,
    claims: Path | None,
) -> None:
    """Verify a receipt offline.

    Either form, by the service's certificate alone. Exit status 1 if it does not verify.
    """
    from ledgerd.ledger import receipt as receipts  # noqa: PLC0415 (cryptography takes long to load)

    digest = _digest(claims_digest, claims)
    data = file.read_bytes()
    if service_cert is None:
        raise ConfigurationError(f"whose receipt? Give --service-cert FILE, the service's certificate, or set {SERVICE_CERT_VARIABLE}")
    certificate = service_cert.read_text(encoding="ascii", errors="replace")
    try:
        key = receipts.public_key(receipts.load_certificate(certificate, "it"))
    except FormatError as error:
        raise ConfigurationError(f"{service_cert} is no service certificate: {error}") from None
    form = "json" if data.lstrip()[:1] == b"{" else "cose"
    try:
        if form == "json":
            verified = receipts.verify_json(data, certificate, expected=transaction_id, claims_digest=digest)
        else:
            verified = receipts.verify_cose(data, key, digest, expected=transaction_id)
    except FormatError as error:
        raise FormatError(f"{file} is no receipt, or a broken one: {error}. `ledgerd receipt get` fetches it anew") from None
    fields: dict[str, Any] = {
        "verified": True,
        "transaction_id": str(verified.transaction_id),
        "form": form,
        "claims_digest": verified.claims_digest.hex() if any(verified.claims_digest) else None,
        "write_set_digest": verified.write_set_digest.hex(),
        "root": verified.root.hex(),
        "signed_by": verified.signed_by,
        "signed_at": None if verified.signed_at is None else datetime.fromtimestamp(verified.signed_at, UTC).isoformat(),
    }
    output.record("receipt_verify", fields)


def _next_step(client: "Client", transaction_id: TransactionId) -> str:
    """What to do about a receipt that there is not, by what the service says of its transaction."""
    try:
        status = client.status(transaction_id)
    except LedgerdError:
        return "No node says what became of it: see `ledgerd status`, and ask again."
    return {
        "Unknown": (
            "The service knows no such transaction, or not yet: compare the id with `x-ms-ccf-transaction-id` of its answer, and with "
            f"what `ledgerd status` shows as committed; `ledgerd tx status {transaction_id} --wait` waits for it."
        ),
        "Pending": f"It is not committed yet: `ledgerd tx status {transaction_id} --wait` waits for that; then ask again.",
        "Invalid": "It was rolled back, or never can be: there will be no receipt. Submit it again, and keep the new id.",
    }.get(status, "It is committed, so ask again: the node may be fetching it from its disk. --timeout waits longer.")


def _digest(digest: bytes | None, claims: Path | None) -> bytes | None:
    if digest is not None and claims is not None:
        raise click.UsageError("--claims and --claims-digest exclude each other")
    return digest if claims is None else hashlib.sha256(claims.read_bytes()).digest()
