"""What nodes have attested in `user_data`, and by which an auditor, a peer or a client recognises whom evidence is for. Pure.

Source: docs/formats/join.md; deterministic CBOR, RFC 8949 4.2.1.
"""

import hashlib
from typing import Any, Final

from ledgerd.ledger import cbor
from ledgerd.ledger.attestation.measurement import configuration_digest

PROTOCOL_VERSION: Final = 2


def binding_digest(relevant: dict[str, Any], encryption_public_key: bytes, program: str) -> bytes:
    """The 48 bytes a joiner puts into `user_data`: SHA-384 over protocol version, configuration digest, X25519 key, program's version.

    Args:
        relevant: The configuration that others rely on.
        encryption_public_key: 32 bytes, to which the service's secrets are sealed.
        program: The version of ledgerd that the node runs, such as `1.2.0`.
    Raises: UsageError: The configuration holds what deterministic CBOR has not.
    """
    return hashlib.sha384(
        cbor.encode(
            {
                "version": PROTOCOL_VERSION,
                "configuration": configuration_digest(relevant),
                "encryption_key": encryption_public_key,
                "program": program,
            }
        )
    ).digest()


def service_digest(service_public_key: bytes, genesis_digest: bytes, accepts: list[list[str]], settings: dict[str, Any]) -> bytes:
    """The 48 bytes a node puts into `user_data` for a client: which service, and which beginning, it speaks for.

    Args:
        service_public_key: DER SubjectPublicKeyInfo.
        genesis_digest: SHA-256 of the service's first entry.
        accepts: `measurement.shown_triples` of the images that this node, and whoever admitted it, was told to accept.
        settings: The service's settings, as this node's ledger has them: how nodes are admitted, and what the genesis says besides.
    Raises: UsageError: `settings`, where they came from another node, hold what deterministic CBOR has not.
    """
    bound = {"service_key": service_public_key, "genesis": genesis_digest, "accepts": accepts, "settings": settings}
    return hashlib.sha384(cbor.encode(bound)).digest()
