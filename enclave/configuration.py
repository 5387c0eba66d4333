"""The configuration that the host hands to the enclave: read, bounded, typed; and the part of it that peers are told.

The host may write what it likes here. What others must be able to rely on (roots, service identity, consensus timing, limits) is
digested into the attestation document's `user_data` and PCR16, so a peer sees exactly what this enclave runs with.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from ledgerd.enclave.jwt import settings as jwt_settings
from ledgerd.enclave.jwt.settings import DEFAULTS as JWT_DEFAULTS
from ledgerd.enclave.jwt.settings import JwtSettings
from ledgerd.enclave.keys import CURVES, curve_of, parse_certificate
from ledgerd.enclave.kms import settings
from ledgerd.enclave.kms.settings import PublicNameSettings
from ledgerd.ledger.attestation.roots import parse_roots
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.ledger.subject import parse_subject

DOCUMENT_SIZE_BYTES_MAX: Final = 4 << 20  # a constitution and a few hundred certificates
ADDRESS_LENGTH_MAX: Final = 300  # of `host:port`
NAMES_MAX: Final = 32  # alternative names in a node's certificate
DATA_SIZE_BYTES_MAX: Final = 16 << 10  # what an operator says of a node, a member or a user; it stands in the ledger for ever
DATA_DEPTH_MAX: Final = 16  # every node reads it again, so it must not be deeper than any of them can follow

_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_NAME: Final = re.compile(r"[A-Za-z0-9.*:_-]{1,253}")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP endpoint as clients or peers reach it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Party:
    """A member or user of the genesis: certificate and data; members may have an encryption key (PEM)."""

    certificate: str
    data: Any
    encryption_key: str | None = None


@dataclass(frozen=True, slots=True)
class StartConfiguration:
    """What a new service begins with; all of it goes into the genesis entry."""

    members: tuple[Party, ...]
    users: tuple[Party, ...]
    measurements: tuple[tuple[bytes, bytes, bytes], ...]
    constitution: str
    admission: str  # "automatic": attested nodes are trusted at once; "vote": they wait as Pending
    open_at_nodes: int | None  # open by itself when so many nodes are trusted; None: by vote
    application_policy: str  # "user_cert", or "open" to anybody
    service_subject: x509.Name  # of the service's certificate


@dataclass(frozen=True, slots=True)
class JoinConfiguration:
    """Whom a new node asks to be admitted, and what it will believe of it."""

    target: Address
    service_certificate: str
    measurements: tuple[tuple[bytes, bytes, bytes], ...]  # empty: only enclaves measured like this one


@dataclass(frozen=True, slots=True)
class Configuration:
    """One node's configuration, complete. Exactly one of `start` and `join` is there.

    Attributes:
        curve: Of the service's key and its nodes' keys, one of `keys.CURVES`. A joiner takes it from the certificate of the service.
    """

    rpc: Address
    peer: Address
    names: tuple[str, ...]
    isolation: tuple[str, ...]
    node_data: Any
    sessions_max: int
    body_size_bytes_max: int
    heartbeat_seconds: float
    election_timeout_seconds: float
    roots: tuple[str, ...]
    curve: str
    start: StartConfiguration | None
    join: JoinConfiguration | None
    public_name: PublicNameSettings | None = None
    jwt: JwtSettings = JWT_DEFAULTS

    def relevant(self, service_public_key: bytes) -> dict[str, Any]:
        """The part that peers rely on, as sent to the verifier, who recomputes its digest.

        Args:
            service_public_key: DER SubjectPublicKeyInfo of the service that is started or joined.
        Raises: ConfigurationError: A root is not one PEM certificate.
        """
        return {
            "roots": sorted({root.fingerprint for root in parse_roots(self.roots)}),
            "service": hashlib.sha256(service_public_key).hexdigest(),
            "curve": self.curve,
            "heartbeat_ms": round(self.heartbeat_seconds * 1000),
            "election_timeout_ms": round(self.election_timeout_seconds * 1000),
            "body_bytes": self.body_size_bytes_max,
            "public_name": None if self.public_name is None else self.public_name.relevant(),
        }

    def accepted(self, own_measurement: tuple[bytes, bytes, bytes]) -> tuple[tuple[bytes, bytes, bytes], ...]:
        """The images that the host told this node to accept, in the genesis or as the node that it joins; if none, its own alone."""
        told = self.start.measurements if self.start is not None else self.join.measurements if self.join is not None else ()
        return told or (own_measurement,)


def differing_keys(told: dict[str, Any], expected: dict[str, Any]) -> str:
    """Name what one node's relevant configuration has otherwise than another's, for people."""
    keys = sorted(key for key in expected if told.get(key) != expected[key])
    return ", ".join(keys) or "unknown keys"


def is_host(text: str) -> bool:
    """Whether a text has the form of a host name or address. Others put it into headers, URLs and logs."""
    return _HOST.fullmatch(text) is not None


def read_address(text: object) -> Address:
    """Read `host:port`, as somebody else has written it. Raises: ValueError: It is no such text."""
    if type(text) is not str or len(text) > ADDRESS_LENGTH_MAX:
        raise ValueError("no address")
    host, _, port = text.rpartition(":")
    if not is_host(host) or not 0 < int(port) < 65536:
        raise ValueError("no address")
    return Address(host, int(port))


def is_data(value: Any) -> bool:
    """Whether a JSON value is fit to stand in the ledger as somebody's data: encodable, not too large, not too deep."""
    try:
        return _depth(value, DATA_DEPTH_MAX) and len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) <= DATA_SIZE_BYTES_MAX
    except ValueError:
        return False


def _depth(value: Any, most: int) -> bool:
    if type(value) is dict:
        value = list(value.values())
    return type(value) is not list or (most > 0 and all(_depth(item, most - 1) for item in value))


def parse(document: bytes) -> Configuration:
    """Read the configuration document (JSON).

    Raises: ConfigurationError: It is not JSON, or a key is missing, unknown in kind, or out of bounds; the message names the key.
    """
    if len(document) > DOCUMENT_SIZE_BYTES_MAX:
        raise ConfigurationError(f"configuration has {len(document)} bytes; at most {DOCUMENT_SIZE_BYTES_MAX} are read")
    try:
        root = json.loads(document)
        json.dumps(root, ensure_ascii=False, allow_nan=False).encode()  # no half characters, no NaN: nothing could write them again
    except (ValueError, RecursionError):
        raise ConfigurationError("configuration is not JSON; the host and the enclave are not of one version") from None
    node = _get(root, "node", dict)
    limits = _get(root, "limits", dict)
    consensus = _get(root, "consensus", dict)
    consortium = _get(root, "consortium", dict)
    mode = _get(root, "mode", str)
    if mode not in ("start", "join"):
        raise ConfigurationError(f"mode is {mode!r}; it must be start or join")
    heartbeat = _number(consensus, "heartbeat_ms", 1, 60_000) / 1000
    election = _number(consensus, "election_timeout_ms", 10, 600_000) / 1000
    if election < 2 * heartbeat:
        raise ConfigurationError("consensus.election_timeout_ms must be at least twice heartbeat_ms, or healthy primaries are deposed")
    start = _start(_get(root, "start", dict)) if mode == "start" else None
    join = _join(_get(root, "join", dict)) if mode == "join" else None
    return Configuration(
        rpc=_address(node, "rpc"),
        peer=_address(node, "peer"),
        names=_names(node),
        isolation=_strings(node, "isolation"),
        node_data=_data(node),
        sessions_max=_number(limits, "sessions", 1, 1_000_000),
        body_size_bytes_max=_number(limits, "body_bytes", 1024, 64 << 20),
        heartbeat_seconds=heartbeat,
        election_timeout_seconds=election,
        roots=_strings(consortium, "roots"),
        curve=_chosen_curve(_get(root, "start", dict)) if join is None else _curve_of_service(join),
        start=start,
        join=join,
        public_name=None if root.get("public_name") is None else settings.read(_get(root, "public_name", dict)),
        jwt=jwt_settings.read(root.get("jwt")),
    )


def _start(section: dict[str, Any]) -> StartConfiguration:
    admission = _get(section, "admission", str)
    policy = _get(section, "application_policy", str)
    if admission not in ("automatic", "vote"):
        raise ConfigurationError(f"start.admission is {admission!r}; it must be automatic or vote")
    if policy not in ("user_cert", "open"):
        raise ConfigurationError(f"start.application_policy is {policy!r}; it must be user_cert or open")
    nodes = section.get("open_at_nodes")
    return StartConfiguration(
        members=_parties(section, "members"),
        users=_parties(section, "users"),
        measurements=_measurements(section),
        constitution=_get(section, "constitution", str),
        admission=admission,
        open_at_nodes=None if nodes is None else _number(section, "open_at_nodes", 1, 1000),
        application_policy=policy,
        service_subject=_subject(section),
    )


def _subject(start: dict[str, Any]) -> x509.Name:
    try:
        return parse_subject(_get(start, "service_subject", str))
    except ConfigurationError as error:
        raise ConfigurationError(f"start.service_subject: {error}") from None


def _chosen_curve(start: dict[str, Any]) -> str:
    curve: str = _get(start, "curve", str)
    if curve not in CURVES:
        raise ConfigurationError(f"start.curve is {curve[:64]!r}; it must be {' or '.join(CURVES)}")
    return curve


def _curve_of_service(join: JoinConfiguration) -> str:
    try:
        return curve_of(parse_certificate(join.service_certificate))
    except FormatError as error:
        raise ConfigurationError(f"join.service_certificate is {error}; copy service_cert.pem from a node of the service") from None


def _join(section: dict[str, Any]) -> JoinConfiguration:
    return JoinConfiguration(
        target=_address(section, "target"),
        service_certificate=_get(section, "service_certificate", str),
        measurements=_measurements(section) if "measurements" in section else (),
    )


def _get(section: Any, key: str, kind: type[Any]) -> Any:
    value = section.get(key) if isinstance(section, dict) else None
    if type(value) is not kind:
        raise ConfigurationError(f"configuration key {key!r} is missing or not of type {kind.__name__}")
    return value


def _number(section: dict[str, Any], key: str, least: int, most: int) -> int:
    value: int = _get(section, key, int)
    if not least <= value <= most:
        raise ConfigurationError(f"configuration key {key!r} is {value}; it must be between {least} and {most}")
    return value


def _strings(section: dict[str, Any], key: str) -> tuple[str, ...]:
    values = _get(section, key, list)
    if len(values) > 1000 or not all(type(value) is str for value in values):
        raise ConfigurationError(f"configuration key {key!r} must be a list of at most 1000 strings")
    return tuple(values)


def _address(section: dict[str, Any], key: str) -> Address:
    value = _get(section, key, dict)
    host = _get(value, "host", str)
    if not is_host(host):
        raise ConfigurationError(f"configuration key {key!r}: {host[:255]!r} is not a host name or address")
    return Address(host, _number(value, "port", 1, 65535))


def _names(node: dict[str, Any]) -> tuple[str, ...]:
    names = _strings(node, "names")
    if len(names) > NAMES_MAX or not all(map(_NAME.fullmatch, names)):
        raise ConfigurationError(f"configuration key 'names' must be a list of at most {NAMES_MAX} DNS names or addresses")
    return names


def _data(section: dict[str, Any]) -> Any:
    value = section.get("data")
    if not is_data(value):
        raise ConfigurationError(f"configuration key 'data' has more than {DATA_SIZE_BYTES_MAX} bytes or {DATA_DEPTH_MAX} levels")
    return value


def _parties(section: dict[str, Any], key: str) -> tuple[Party, ...]:
    return tuple(
        Party(
            certificate=_get(item, "certificate", str),
            data=_data(item),
            encryption_key=None if item.get("encryption_key") is None else _get(item, "encryption_key", str),
        )
        for item in _get(section, key, list)
    )


def _measurements(section: dict[str, Any]) -> tuple[tuple[bytes, bytes, bytes], ...]:
    found = []
    for item in _get(section, "measurements", list):
        try:
            registers = tuple(bytes.fromhex(_get(item, name, str)) for name in ("pcr0", "pcr1", "pcr2"))
        except ValueError:
            raise ConfigurationError("a measurement is not hexadecimal; copy PCR0, PCR1 and PCR2 from `ledgerd image measure`") from None
        if any(len(register) != 48 for register in registers):
            raise ConfigurationError("a measurement's register is not 48 bytes (96 hexadecimal characters)")
        if not any(any(register) for register in registers):
            raise ConfigurationError(
                "a measurement of zeros is that of a debug enclave, whose memory its host can read; it is never accepted"
            )
        found.append((registers[0], registers[1], registers[2]))
    return tuple(found)
