"""`ledgerd gov finish` and `submit`: the second step of signing elsewhere, and sending what any tool has signed.

Not here: the first step, `--prepare` (`cli.gov_signing`).
"""

from pathlib import Path
from typing import Final

import click

from ledgerd.governance import requests
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.node.cli import gov_files, gov_outcome, gov_signing
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.service import ServiceOptions, node_options

_SIGNATURE_BYTES_MAX: Final = 64 << 10


@command("finish")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--signature", metavar="FILE", help="The signature, if it is not FOLDER/signature; - is standard input.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the signed request there, and send nothing.")
@node_options
def gov_finish(output: Output, service: ServiceOptions, folder: Path, signature: str | None, out: Path | None) -> None:
    """Put a signature into what --prepare wrote, and send it.

    The signature may be in DER, as openssl makes it, or two numbers side by side; as they are, in base64, or in the JSON with which Azure
    Key Vault or AWS KMS answer. It is verified against the member's certificate before anything is sent.
    """
    if signature is None and not (folder / gov_signing.SIGNATURE).exists():
        raise ConfigurationError(gov_signing.unsigned(folder))
    data = gov_files.read_bytes(signature or str(folder / gov_signing.SIGNATURE), _SIGNATURE_BYTES_MAX)
    call = gov_signing.finished(folder, data)
    if out is None:
        gov_outcome.send(output, service, call, schema="gov_submit", kind=requests.read(call.body).kind)
        return
    try:
        out.write_bytes(call.body)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}") from None
    signed = requests.read(call.body)
    output.record("gov_finished", {"file": str(out), "kind": signed.kind, "member_id": signed.member_id, "proposal_id": signed.proposal_id})
    output.note(f"Nothing is sent yet: ledgerd gov submit {out}")


@command("submit")
@click.argument("file")
@node_options
def gov_submit(output: Output, service: ServiceOptions, file: str) -> None:
    """Send a request that a member has signed.

    FILE is a COSE_Sign1 by `ledgerd gov finish --out` or by CCF's tools (`ccf_cose_sign1`, `ccf_cose_sign1_finish`); - is standard input.
    Where it goes follows from its header.
    """
    from ledgerd.network.client.members import call_of  # noqa: PLC0415

    try:
        call = call_of(gov_files.read_bytes(file))
    except FormatError as error:
        raise ConfigurationError(f"{file} is no request that a member has signed: {error}") from None
    gov_outcome.send(output, service, call, schema="gov_submit", kind=requests.read(call.body).kind)
