"""How a client comes to believe a service certificate: an attested enclave holds its key. Judgement only, no I/O.

The caller states which roots it believes and which images it wants. A node answers with a document made for the caller's own nonce,
which binds the node's key, the service's key and the genesis entry. Anybody can run the same image for another consortium, so a
caller who knows the digest of the genesis entry should state it; otherwise it learns it here, shows it to people, and keeps it.
Not here: the exchange itself (`client.session`), what a document proves (`ledger.attestation`).
"""

import base64
import hashlib
import ssl
from collections.abc import Callable, Generator, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from ledgerd.ledger import cbor, receipt
from ledgerd.ledger.attestation.binding import service_digest
from ledgerd.ledger.attestation.measurement import Measurement, configuration_digest, parse_measurement, read_triples, shown_triples
from ledgerd.ledger.attestation.nitro import Attestation
from ledgerd.ledger.attestation.policy import Policy, verify_now
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1, parse_roots
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError, UsageError
from ledgerd.network.client.attempts import Lost
from ledgerd.network.client.errors import RetryBudgetExhausted, ServiceIdentityMismatch
from ledgerd.network.client.identity import ServiceIdentity
from ledgerd.network.client.values import Budget, parse_json

NONCE_SIZE_BYTES: Final = 32
STATEMENT_SIZE_BYTES_MAX: Final = 1 << 20  # documents have some 5,000 bytes, certificates and configuration as many
STATEMENT_PATH: Final = "/node/attestations/self?nonce="

Root: TypeAlias = str | PathLike[str]
"""A root certificate: PEM text, or a file that holds it."""

Line: TypeAlias = Measurement | tuple[str, str, str] | dict[str, str]
"""A line of the allow-list: PCR0, PCR1, PCR2 in hex, also as `{"pcr0": ..., "pcr1": ..., "pcr2": ...}`."""


class Statement(NamedTuple):
    """What a node says of itself; believed only after `verify_statement`.

    Attributes:
        document: The attestation document.
        service_certificate: PEM.
        genesis: Hex SHA-256 of the service's first entry.
        configuration: What all nodes of the service run with, as docs/formats/join.md lists it; PCR16 measures it.
        accepts: PCR0, PCR1, PCR2 in hex of each image that the node, and whoever admitted it, was told to accept.
        settings: The service's settings, as the node's ledger has them.
    """

    document: bytes
    service_certificate: str
    genesis: str
    configuration: dict[str, Any]
    accepts: list[list[str]]
    settings: dict[str, Any]


class Trusted(NamedTuple):
    """A service identity, and the attestation that made it believable.

    Attributes:
        configuration: What was attested with it: what all nodes run with.
        settings: Likewise: how nodes are admitted (`admission`), and what the genesis says besides, as docs/formats/join.md lists it.
    """

    identity: ServiceIdentity
    attestation: Attestation
    configuration: dict[str, Any]
    settings: dict[str, Any]


class Presented(NamedTuple):
    """What a node answered before anything of it was believed, and the TLS certificate (DER) of the connection over which it did."""

    status: int
    body: bytes
    certificate: bytes | None


Steps: TypeAlias = Generator[str, Presented | Lost | None, Trusted]
"""Yields URLs to get from nodes that nobody vouches for, and is sent back what came."""


def steps(
    origins: Iterable[str],
    policy: Policy,
    *,
    nonce: bytes,
    now_ms: Callable[[], int],
    genesis: str | None,
    configuration: Mapping[str, Any] | None,
    budget: Budget,
) -> Steps:
    """Ask one node after the other for its statement; judge the first that comes.

    Raises: As `verify_statement` and `parse_statement`; RetryBudgetExhausted: Nobody answered.
    """
    failures = []
    for origin in origins:
        found = yield f"{origin}{STATEMENT_PATH}{nonce.hex()}"
        assert found is not None, "whoever drives this answers a URL with Presented or Lost"
        if isinstance(found, Lost):
            failures.append(f"{origin}: {found.reason}")
        elif found.status != 200:
            failures.append(f"{origin} answered {found.status}")
        else:
            statement = parse_statement(parse_json(found.body))
            return verify_statement(
                statement,
                policy,
                presented=found.certificate,
                nonce=nonce,
                now_ms=now_ms(),
                genesis=genesis,
                configuration=configuration,
            )
    raise RetryBudgetExhausted(len(failures), budget.seconds, "; ".join(failures))


def policy_of(roots: Iterable[Root] | None, measurements: Iterable[Line]) -> Policy:
    """Read what a caller accepts. Without `roots`: AWS's alone.

    Raises: ConfigurationError: A root is no certificate, or a measurement is not three PCRs in hex, or there is none.
    """
    accepted = (AWS_ROOT_G1,) if roots is None else parse_roots(_root_text(root) for root in roots)
    lines = frozenset(_line(line) for line in measurements)
    if not lines:
        raise ConfigurationError("no measurement is given, so no enclave could ever be accepted; give PCR0, PCR1 and PCR2 of the image")
    return Policy(accepted, lines)


def parse_statement(answer: Any) -> Statement:
    """Read the JSON of `GET /node/attestations/self?nonce=...`.

    Raises: FormatError: A field is missing or has another shape.
    """
    try:
        document = base64.b64decode(answer["raw"], validate=True)
        certificate, genesis, configuration = answer["service_certificate"], answer["genesis_digest"], answer["configuration"]
        configuration_digest(configuration)
        accepts = shown_triples(read_triples(answer["accepts"]))
        settings = answer["settings"]
        cbor.encode(settings)
        is_object = type(configuration) is dict and type(settings) is dict
        if type(certificate) is str and type(genesis) is str and len(bytes.fromhex(genesis)) == 32 and is_object:
            return Statement(document, certificate, genesis.lower(), configuration, accepts, settings)
    except (KeyError, TypeError, ValueError, UsageError, FormatError):
        pass
    raise FormatError(
        "the node's attestation lacks raw (the document), service_certificate, genesis_digest, configuration, accepts or settings, or has "
        "one in another form; is it a ledgerd node, of this version?"
    )


def verify_statement(
    statement: Statement,
    policy: Policy,
    *,
    presented: bytes | None,
    nonce: bytes,
    now_ms: int,
    genesis: str | None,
    configuration: Mapping[str, Any] | None = None,
) -> Trusted:
    """Judge a node's statement.

    Args:
        statement: As it came.
        policy: What the caller accepts.
        presented: DER of the TLS certificate of the connection over which it came.
        nonce: What the caller made for this statement.
        now_ms: The caller's clock, milliseconds since 1970.
        genesis: Hex digest of the genesis entry where the caller knows it; None believes the attested one.
        configuration: Values of the service's configuration that the caller knows; others are believed as attested, but for `roots`:
            without a value here, each must be one of the policy's.
    Raises:
        AttestationError: The document is refused, by which rule.
        ServiceIdentityMismatch: It is attested, but not this service's, or not this connection's; or the node was told to believe roots
            or images that the caller does not accept, so that the service's key may be known outside of every genuine enclave.
    """
    certificate = receipt.load_certificate(statement.service_certificate, "the service certificate")
    service_key = receipt.key_der(receipt.public_key(certificate))
    attestation = verify_now(
        statement.document,
        policy,
        now_ms=now_ms,
        nonce=nonce,
        public_key=None,
        user_data=service_digest(service_key, bytes.fromhex(statement.genesis), statement.accepts, statement.settings),
        configuration=configuration_digest(statement.configuration),
    )
    expected = {**(configuration or {}), "service": hashlib.sha256(service_key).hexdigest()}
    differing = sorted(key for key, value in expected.items() if statement.configuration.get(key) != value)
    if differing:
        raise ServiceIdentityMismatch(f"the attested configuration has other values than expected for {', '.join(differing)}")
    if "roots" not in expected:
        _check_roots(statement.configuration.get("roots"), policy)
    _check_accepts(statement.accepts, policy)
    if presented is None:
        raise ServiceIdentityMismatch("the node presented no certificate")
    leaf = receipt.load_certificate(ssl.DER_cert_to_PEM_cert(presented), "the node's TLS certificate")
    if receipt.key_der(receipt.public_key(leaf, "the node's TLS certificate")) != attestation.public_key:
        raise ServiceIdentityMismatch("the connection does not end in the attested enclave: its certificate holds another key")
    try:
        receipt.check_chain(leaf, [certificate])
    except IntegrityError as error:
        raise ServiceIdentityMismatch(f"the node's certificate is not endorsed by the attested service: {error}") from None
    if genesis is not None and genesis.lower() != statement.genesis:
        raise ServiceIdentityMismatch(f"the service began with entry {statement.genesis}, not with the expected {genesis.lower()}")
    identity = ServiceIdentity(statement.service_certificate, statement.genesis)
    return Trusted(identity, attestation, statement.configuration, statement.settings)


def _check_roots(attested: Any, policy: Policy) -> None:
    """A genuine enclave that believes a foreign root would take the service's key from, or give it to, whoever holds that root."""
    accepted = {root.fingerprint for root in policy.roots}
    if type(attested) is not list or not attested or not all(type(root) is str for root in attested):
        raise ServiceIdentityMismatch("the attested configuration does not say which attestation roots the node believes; update the node")
    unknown = [root for root in attested if root not in accepted]
    if unknown:
        raise ServiceIdentityMismatch(
            f"the attested node also believes attestation roots that you do not accept, by SHA-256 of their DER: {', '.join(unknown)}; "
            "whoever holds one may know the service's key: ask the operator whose they are, and give them as roots too only if you trust "
            "each of them"
        )


def _check_accepts(accepts: list[list[str]], policy: Policy) -> None:
    """A genuine enclave that admits, or joins, another image shares the service's key with it."""
    accepted = {(line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex()) for line in policy.measurements}
    unknown = [f"PCR0 {pcr0}, PCR1 {pcr1}, PCR2 {pcr2}" for pcr0, pcr1, pcr2 in accepts if (pcr0, pcr1, pcr2) not in accepted]
    if unknown:
        raise ServiceIdentityMismatch(
            f"the attested node was told to accept images that you do not: {'; '.join(unknown)}; such an image may know the service's key: "
            "ask the operator what they are, and give them as measurements too only if you trust each of them"
        )


def _root_text(root: Root) -> str:
    if isinstance(root, str) and "-----BEGIN" in root:
        return root
    try:
        return Path(root).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not PEM text"
        raise ConfigurationError(f"cannot read the attestation root {Path(root)}: {reason}") from None


def _line(line: Line) -> Measurement:
    if isinstance(line, Measurement):
        return line
    if isinstance(line, dict):
        try:
            return parse_measurement(line["pcr0"], line["pcr1"], line["pcr2"], line.get("pcr8"), line.get("pcr3"))
        except KeyError as error:
            raise ConfigurationError(f"a measurement lacks {error.args[0]}; PCR0, PCR1 and PCR2 count together") from None
    return parse_measurement(*line)
