"""The section `public_name` of the configuration that the host hands in: read, bounded, typed.

Of what stands there, `name` and `key` are the service's: they go into the genesis, for members to see before they open, and into the
configuration that is attested and must be the same in all nodes. Whoever chooses the key can choose one that also gives its data keys to
himself, and so read what is sealed; that must not be one node's host. The rest is the host's, and nothing is believed because of it:
credentials, where to connect, what was sealed. `roots` count only in an enclave that is SIMULATED anyway (`enclave.core`).
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from ledgerd.enclave.kms.calls import parse_key_arn
from ledgerd.enclave.kms.client import Endpoint, endpoint_of
from ledgerd.enclave.kms.public_name import PublicNameConfiguration
from ledgerd.enclave.kms.sealed import BLOB_SIZE_BYTES_MAX
from ledgerd.enclave.kms.sigv4 import Credentials
from ledgerd.enclave.kms.trust import parse_server_roots
from ledgerd.ledger.errors import ConfigurationError

CHAIN_LENGTH_MAX: Final = 64 << 10  # characters of PEM
ROOTS_MAX: Final = 20  # Amazon Trust Services has five

_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@dataclass(frozen=True, slots=True)
class PublicNameSettings:
    """All that a node needs for its public name.

    Attributes:
        roots: Of a simulated KMS; empty for Amazon's, which are in the image.
        credentials: None: this node does not ask for it.
    """

    public_name: PublicNameConfiguration
    endpoint: Endpoint
    roots: tuple[x509.Certificate, ...]
    credentials: Credentials | None

    def relevant(self) -> dict[str, str]:
        """What all nodes and the genesis agree on."""
        return {"name": self.public_name.name, "key": self.public_name.key.text}


def read(section: Mapping[str, Any]) -> PublicNameSettings:
    """Read the section.

    Raises: ConfigurationError: A key is missing, of a wrong type, or out of bounds; the message names it, and shows no secret.
    """
    name = _text(section, "name")
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"public_name.name is {name[:253]!r}; give a DNS name in lower case, such as ledger.example.org")
    key = parse_key_arn(_text(section, "key"))
    roots = section.get("roots", [])
    if type(roots) is not list or len(roots) > ROOTS_MAX or not all(type(root) is str for root in roots):
        raise ConfigurationError(f"public_name.roots must be a list of at most {ROOTS_MAX} PEM texts")
    chain = _text(section, "chain")
    if len(chain) > CHAIN_LENGTH_MAX:
        raise ConfigurationError(f"public_name.chain has {len(chain)} characters; at most {CHAIN_LENGTH_MAX} are read")
    return PublicNameSettings(
        PublicNameConfiguration(name, key, _sealed(section.get("sealed")), chain),
        _endpoint(section.get("endpoint"), endpoint_of(key)),
        parse_server_roots(roots) if roots else (),
        _credentials(section.get("credentials")),
    )


def _credentials(value: Any) -> Credentials | None:
    if value is None:
        return None
    if type(value) is not dict:
        raise ConfigurationError("public_name.credentials are not {access_key_id, secret_access_key, session_token}")
    token = value.get("session_token")
    return Credentials(
        _text(value, "access_key_id"), _text(value, "secret_access_key"), None if token is None else _text(value, "session_token")
    )


def _text(section: Mapping[str, Any], key: str) -> str:
    value = section.get(key)
    if type(value) is not str:
        raise ConfigurationError(f"public_name: {key} is missing or not a text")
    return value


def _sealed(value: Any) -> bytes | None:
    if value is None:
        return None
    try:
        if type(value) is str and len(value) <= 2 * BLOB_SIZE_BYTES_MAX:
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ConfigurationError("public_name.sealed is not what this node announced as public_name_sealed: base64, unchanged")


def _endpoint(value: Any, usual: Endpoint) -> Endpoint:
    """Where to connect, if not to AWS's own address. The name that the certificate must have does not change."""
    if value is None:
        return usual
    host, port = (value.get("host"), value.get("port")) if type(value) is dict else (None, None)
    if type(host) is not str or _HOST.fullmatch(host) is None or type(port) is not int or not 0 < port <= 65535:
        raise ConfigurationError("public_name.endpoint is not {host, port}")
    return usual._replace(host=host, port=port)
