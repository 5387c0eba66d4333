"""`ledgerd gov share`: a member's own recovery share, fetched and decrypted.

Not here: handing it in when a service recovers, which is not built.
"""

import base64
import binascii
from typing import Any, Final

import click

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli import gov_files
from ledgerd.node.cli.gov_outcome import read
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import is_id
from ledgerd.node.cli.service import ServiceOptions, node_options

KEY_BYTES_MAX: Final = 64 << 10


class NoShareError(LedgerdError):
    """The service has no share for this key, or none that it decrypts."""

    code = "NoShare"


@command("share")
@click.option("--encryption-key", required=True, metavar="FILE", help="Your private encryption key: RSA, PEM, without a passphrase.")
@click.option("--member", "member_id", metavar="MEMBER_ID", help="Whose share, where several members have this key.")
@node_options
def gov_share(output: Output, service: ServiceOptions, encryption_key: str, member_id: str | None) -> None:
    """Show your own share for recovery, decrypted, in base64.

    Whoever has as many shares as it takes, and the ledger, can read everything in it. Shares change with the members: fetch it when it is
    needed, do not keep it.
    """
    key = _private_key(encryption_key)
    if member_id is not None and is_id(member_id) is None:
        raise ConfigurationError(f"{member_id[:80]!r} is no member's id: it has 64 lower-case hexadecimal digits; `ledgerd gov members`")
    from ledgerd.network.client import RequestRefused  # noqa: PLC0415

    with service.client() as client:
        found = member_id or _whose(read(client, "service/members")["value"], key)
        try:
            encrypted = str(read(client, f"recovery/encrypted-shares/{found}")["encryptedShare"])
        except RequestRefused as error:
            raise NoShareError(f"the service has no share of member {found}: {error}") from None
    output.text("gov_share", "share", base64.b64encode(_decrypted(encrypted, key, found)).decode())


def _private_key(name: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    data = gov_files.read_bytes(name, KEY_BYTES_MAX)
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise ConfigurationError(f"{name} has a passphrase; decrypt it first: openssl pkey -in {name} -out FILE") from None
    except Exception:  # the library's list of what it raises for strange keys is long
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigurationError(f"{name} is no private RSA key in PEM; it belongs to the public key with which the member was added")
    return key


def _whose(members: list[dict[str, Any]], key: Any) -> str:
    own = key.public_key().public_numbers()
    found = [str(member["memberId"]) for member in members if _numbers(member.get("publicEncryptionKey") or "") == own]
    if not found:
        raise NoShareError("no member has this encryption key; `ledgerd gov members -o json` shows whose there are")
    if len(found) > 1:
        raise ConfigurationError(f"{len(found)} members have this encryption key; say whose share: --member {' or '.join(found)}")
    return found[0]


def _numbers(pem: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        return load_pem_public_key(pem.encode()).public_numbers()  # type: ignore[union-attr]  # not all kinds have them
    except Exception:  # as above; others' keys may be anything
        return None


def _decrypted(encrypted: str, key: Any, member_id: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    try:
        share: bytes = key.decrypt(base64.b64decode(encrypted, validate=True), padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    except (ValueError, binascii.Error):
        raise NoShareError(f"the share of member {member_id} is not for this key; is it the one that the member has now?") from None
    return share
