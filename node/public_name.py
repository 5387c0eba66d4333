"""The host's part of a public name: files that outlive the node, and the credentials with which its enclave signs calls to KMS.

`sealed` is what only the image opens; `request.pem` goes to a public authority, and what comes back becomes `chain.pem`. The folder is not
the node's directory, since that is new at each start. None of it is a secret against whoever reads the folder.
Not here: what the enclave makes of it (`enclave.kms`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError

SEALED: Final = "sealed"
REQUEST: Final = "request.pem"
CHAIN: Final = "chain.pem"
# Notices of the enclave, and the files in which they are kept.
NOTICES: Final = {"public_name_sealed": SEALED, "public_name_request": REQUEST}


@dataclass(frozen=True, slots=True)
class PublicNameConfig:
    """The section `[public_name]`.

    Attributes:
        name: DNS name; the same in all nodes, as is the key.
        key: ARN of the KMS key under which each node's TLS key is sealed.
        folder: Where this node keeps what must outlive it.
        roots: PEM of the authority of a simulated KMS; empty for AWS's.
        endpoint: Host and port to connect to in place of AWS's own.
    """

    name: str
    key: str
    folder: Path
    roots: tuple[str, ...] = ()
    endpoint: tuple[str, int] | None = None


def document(config: PublicNameConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """Make the enclave's section. Credentials are taken from the variables that AWS's own tools read; without them the node goes without.

    Raises: ConfigurationError: A file in the folder cannot be read.
    """
    access_key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    credentials = None
    if access_key and secret:
        credentials = {
            "access_key_id": access_key,
            "secret_access_key": secret,
            "session_token": environment.get("AWS_SESSION_TOKEN") or None,
        }
    return {
        "name": config.name,
        "key": config.key,
        "roots": list(config.roots),
        "endpoint": None if config.endpoint is None else {"host": config.endpoint[0], "port": config.endpoint[1]},
        "credentials": credentials,
        "sealed": _read(config.folder / SEALED) or None,
        "chain": _read(config.folder / CHAIN),
    }


def keep(config: PublicNameConfig, notice: str, text: str) -> None:
    """Write what the enclave announced, whole or not at all. What was sealed once is never replaced.

    Raises: ConfigurationError: It cannot be written, or there is something already.
    """
    path = config.folder / NOTICES[notice]
    temporary = path.with_name(f".{path.name}.new")
    try:
        config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if NOTICES[notice] == SEALED and path.exists():
            raise ConfigurationError(f"{path} is there already; another node uses this folder: give each its own")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text'}") from None
