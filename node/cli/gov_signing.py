"""Signs what a member says, or has it signed elsewhere: the step that `propose`, `vote`, `ack` and `withdraw` share.

With a key in an HSM or vault it takes two commands: the first with `--prepare FOLDER` writes there what is to be signed, and
`ledgerd gov finish FOLDER` takes the signature. Nothing in the folder is secret.
Not here: the bytes (`governance.requests`), sending and telling what came of it (`cli.gov_outcome`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.node.cli.gov_files import read_bytes
from ledgerd.node.cli.output import Output
from ledgerd.node.cli.service import Signing

if TYPE_CHECKING:
    from ledgerd.network.client.members import Signatory, Statement
    from ledgerd.network.client.values import Call

REQUEST: Final = "request.cose"
CERTIFICATE: Final = "member_cert.pem"
TO_BE_SIGNED: Final = "to-be-signed"
DIGEST: Final = "digest"
SIGNATURE: Final = "signature"


def signatory(signing: Signing) -> "Signatory":
    """Who signs: a `Member` with its key, or with `--prepare` whoever has the certificate.

    Raises: ConfigurationError: A file is missing, or cannot be used.
    """
    from ledgerd.network.client.members import Member, Signatory  # noqa: PLC0415

    if signing.certificate is None:
        raise ConfigurationError("which member signs? Give --member-cert FILE, and --member-key FILE or --prepare FOLDER")
    if signing.prepare is not None:
        return Signatory(signing.certificate)
    if signing.key is None:
        raise ConfigurationError("with which key? Give --member-key FILE; or, if it is in an HSM or vault, --prepare FOLDER")
    return Member(signing.certificate, signing.key)


def sign(output: Output, signing: Signing, who: "Signatory", statement: "Statement") -> "Call | None":
    """The signed request; or None, then it lies prepared in the folder, and people were told what to do with it.

    Raises: ConfigurationError: The folder is in use, or cannot be written.
    """
    from ledgerd.network.client.members import Member  # noqa: PLC0415

    if isinstance(who, Member):
        return who.sign(statement)
    assert signing.certificate is not None and signing.prepare is not None, "`signatory` has seen to it"
    _prepare(output, signing.prepare, signing.certificate, who, statement)
    return None


def _prepare(output: Output, folder: Path, certificate: Path, who: "Signatory", statement: "Statement") -> None:
    prepared = who.prepare(statement)
    files = {REQUEST: prepared.request, CERTIFICATE: certificate.read_bytes(), TO_BE_SIGNED: prepared.to_be_signed, DIGEST: prepared.digest}
    if (folder / REQUEST).exists() or (folder / SIGNATURE).exists():
        raise ConfigurationError(f"{folder} has a request already: finish that one, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename}: {error.strerror}") from None
    output.record(
        "gov_prepared",
        {
            "folder": str(folder),
            "kind": statement.kind,
            "member_id": who.id,
            "proposal_id": statement.proposal_id,
            "algorithm": prepared.algorithm,
            "hash": prepared.hash_name,
            "digest": prepared.digest.hex(),
        },
    )
    algorithm, hash_name = prepared.algorithm, prepared.hash_name
    output.note(
        f"Nothing is signed or sent yet. Sign {folder}/{TO_BE_SIGNED} ({algorithm}), or its digest, with the member's key; for example\n"
        f"  openssl dgst -{hash_name} -sign KEY -out {folder}/{SIGNATURE} {folder}/{TO_BE_SIGNED}\n"
        f"then: ledgerd gov finish {folder}"
    )


def finished(folder: Path, signature: bytes) -> "Call":
    """The request that was prepared in a folder, with its signature.

    Raises:
        ConfigurationError: Nothing was prepared there.
        FormatError: The signature is none. IntegrityError: It is not the member's over this request.
    """
    from ledgerd.network.client.members import Signatory  # noqa: PLC0415

    _require_prepared(folder)
    prepared = read_bytes(str(folder / REQUEST))
    try:
        return Signatory(folder / CERTIFICATE).finish(prepared, signature)
    except IntegrityError:  # here no stranger is to be distrusted: a member has signed with, or signed, something else
        raise IntegrityError(
            f"the signature is not over {folder / TO_BE_SIGNED} by the key of {folder / CERTIFICATE}; nothing was sent. "
            "Sign again, with that member's key and the hash that --prepare told"
        ) from None


def unsigned(folder: Path) -> str:
    """What to do where nobody has signed yet. Raises: ConfigurationError: Nothing was prepared there."""
    _require_prepared(folder)
    return (
        f"nobody has signed yet: {folder / SIGNATURE} is not there. Sign {folder / TO_BE_SIGNED}, or its digest, and write "
        "the signature there, or say with --signature FILE where it is"
    )


def _require_prepared(folder: Path) -> None:
    if not (folder / REQUEST).exists():
        raise ConfigurationError(f"nothing is prepared in {folder}: it has no {REQUEST}; --prepare makes one")
