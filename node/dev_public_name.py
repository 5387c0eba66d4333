"""What `ledgerd dev --public-name` adds: a simulated KMS, and an authority that certifies the name, so that a sealed TLS key can be tried.

Each node makes its key inside its enclave and has it sealed under one key of that KMS, whose policy is the one that `ledgerd kms policy`
prints for what the nodes run. A node serves a name from its next start on, and a node never resumes; so beside the service lies the
configuration of one more node, which opens what the first one sealed. Everything of it is SIMULATED, and ends with `ledgerd dev`.
Not here: the KMS (`node.simulator`), what the enclave does (`enclave.kms`).
"""

import datetime
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.node.child import dies_with_us
from ledgerd.node.config import Measurement
from ledgerd.node.kms_policy import key_policy, print_policy
from ledgerd.node.public_name import CHAIN, REQUEST
from ledgerd.node.simulator import kms_process
from ledgerd.node.simulator.pki import key_usage

FOLDER: Final = "kms"
AUTHORITY: Final = "authority_cert.pem"
CREDENTIALS: Final = "credentials"
NEXT: Final = "next"  # the folder of the node that is to open what the first one sealed
LIFETIME: Final = datetime.timedelta(days=90)
BACKDATED: Final = datetime.timedelta(hours=1)
_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")


class Ready(NamedTuple):
    """What the simulated KMS told when it was ready."""

    key: str
    endpoint: str
    access_key_id: str
    secret_access_key: str


class Shown(NamedTuple):
    """How a person sees it at work.

    Attributes:
        name: The DNS name.
        join: Starts the node that opens what the first one sealed.
        curl: Asks that node under the name.
        decisions: The file in which KMS says what it was asked, and why it answered as it did.
    """

    name: str
    join: str
    curl: str
    decisions: str


class DevPublicName:
    """A public name in development.

    Args:
        directory: Of the service.
        name: DNS name.
        image: What the nodes are measured as.
    Raises: ConfigurationError: It is no name.
    """

    def __init__(self, directory: Path, name: str, image: Measurement) -> None:
        check(name)
        self.name = name
        self.folder = directory / FOLDER
        self._directory = directory
        self._image = image
        self._ready: Ready | None = None
        self._authority = ec.generate_private_key(ec.SECP256R1())

    def begin(self, attestation_root: str) -> "subprocess.Popen[bytes]":
        """Start the simulated KMS; `ready` tells when it is there."""
        folder = self.folder
        folder.mkdir(mode=0o700)
        pcrs = {index: bytes.fromhex(value) for index, value in enumerate((self._image.pcr0, self._image.pcr1, self._image.pcr2))}
        (folder / kms_process.POLICY).write_text(print_policy(key_policy([pcrs], [kms_process.ROLE])))
        (folder / kms_process.ATTESTATION_ROOT).write_text(attestation_root)
        with (folder / "output.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-P", "-m", kms_process.__name__, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dies_with_us(signal.SIGTERM),  # noqa: PLW1509 (this process has one thread)
            )

    def ready(self) -> str | None:
        """The KMS's endpoint once it is there, and `credentials` for whoever starts another node."""
        if self._ready is None:
            try:
                self._ready = Ready(**json.loads((self.folder / kms_process.READY).read_text()))
            except OSError:
                return None
            lines = (f"export {name}={shlex.quote(value)}\n" for name, value in self.environment().items())
            credentials = self.folder / CREDENTIALS
            credentials.touch(mode=0o600)
            credentials.write_text("".join(["# Of the SIMULATED KMS only.\n", *lines]))
        return self._ready.endpoint

    def environment(self) -> dict[str, str]:
        """What nodes find their credentials in."""
        assert self._ready is not None, "asked when it is ready"
        return {"AWS_ACCESS_KEY_ID": self._ready.access_key_id, "AWS_SECRET_ACCESS_KEY": self._ready.secret_access_key}

    def section(self, number: int) -> list[str]:
        """Lines of a node's configuration; what a node seals lies beside its directory, since that is new at each start."""
        assert self._ready is not None, "asked when it is ready"
        return [
            "",
            "[public_name]",
            f'name = "{self.name}"',
            f'key = "{self._ready.key}"',
            f'folder = "../name{number}"',
            f'roots = ["../{FOLDER}/{kms_process.SERVER_ROOT}"]  # SIMULATED',
            f'endpoint = "{self._ready.endpoint}"',
        ]

    def certify(self) -> bool:
        """Be the public authority: certify the first node's request. False if there is none yet.

        Raises: IntegrityError: It is no request for this name, signed by its own key.
        """
        folder = self._directory / "name0"
        try:
            request = x509.load_pem_x509_csr((folder / REQUEST).read_bytes())
        except FileNotFoundError:
            return False
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        key = request.public_key()
        if not request.is_signature_valid or names != [self.name] or not isinstance(key, ec.EllipticCurvePublicKey):
            raise IntegrityError(f"{folder / REQUEST} is no request for {self.name}; nothing is certified")
        authority = self._certificate("SIMULATED public authority", self._authority.public_key(), None)
        leaf = self._certificate(self.name, key, self.name)
        (self.folder / AUTHORITY).write_text(authority)
        (folder / CHAIN).write_text(leaf + authority)
        return True

    def _certificate(self, subject: str, key: ec.EllipticCurvePublicKey, name: str | None) -> str:
        """Issued by this authority: for a server of that name, or for the authority itself."""
        begin = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - BACKDATED
        issuer, own = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("SIMULATED public authority", subject[:64]))
        usage = key_usage(digital_signature=True) if name is not None else key_usage(key_cert_sign=True, crl_sign=True)
        extensions: list[tuple[Any, bool]] = [
            (x509.BasicConstraints(ca=name is None, path_length=None), True),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key()), False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
            (usage, True),
        ]
        if name is not None:
            extensions.append((x509.SubjectAlternativeName([x509.DNSName(name)]), False))
            extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False))
        builder = x509.CertificateBuilder(issuer, own, key, x509.random_serial_number(), begin, begin + LIFETIME)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._authority, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def write_next(self, configuration: str) -> Shown:
        """Write the configuration of the node that opens what the first one sealed."""
        folder = self._directory / NEXT
        folder.mkdir(mode=0o700)
        path = folder / "node.toml"
        path.write_text(configuration)
        credentials, file, authority, address = (
            shlex.quote(str(item)) for item in (self.folder / CREDENTIALS, path, self.folder / AUTHORITY, folder / "rpc_address")
        )
        return Shown(
            self.name,
            f". {credentials}; ledgerd node join --config {file}",
            f'curl --cacert {authority} --connect-to "{self.name}:443:$(cat {address})" https://{self.name}/node/state',
            str(self.folder / kms_process.DECISIONS),
        )


def check(name: str) -> None:
    """Raises: ConfigurationError: It is no DNS name in lower case."""
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"--public-name {name[:253]!r}: give a DNS name in lower case, such as ledger.example.org")


def environment_of(name: DevPublicName | None) -> dict[str, str]:
    """The environment of a node: this one, with credentials where there is a KMS."""
    return {**os.environ, **(name.environment() if name is not None else {})}
