"""Who may join: the primary's side. A nonce, a document made for it, every rule checked, then and only then the secrets.

A joiner asks for a nonce, sends its document, and is recorded as Pending. It polls, each time with a fresh nonce and document. Once that
record is committed (so that nobody ever gets the secrets without a trace in the ledger) it is trusted: at once where the genesis says so,
otherwise when governance does it. A poll that finds it trusted is answered with the secrets, in a box that only the attested enclave can
open. That answer does not wait for the commit of the trust itself: from that entry on commits need the new node, which can do nothing
without the secrets.
Not here: the joiner's side (`enclave.joining`), what a document proves (`ledger.attestation`).
"""

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.public import PublicKey, SealedBox

from ledgerd.enclave.built_ins import built_in
from ledgerd.enclave.configuration import (
    NAMES_MAX,
    Configuration,
    differing_keys,
    is_data,
    read_address,
)
from ledgerd.enclave.consensus.quorum import majority
from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.entropy import random_bytes
from ledgerd.enclave.frontend import address_of
from ledgerd.enclave.genesis import node_record
from ledgerd.enclave.join_policy import accepted, parse_evidence, record_of
from ledgerd.enclave.keys import CERTIFICATE_VALIDITY_DAYS, ServiceKeys, at_milliseconds, node_id_of, spki
from ledgerd.enclave.kv import Store
from ledgerd.enclave.leaving import is_removable, node_records, trusted_nodes
from ledgerd.enclave.ledger_secrets import LedgerSecret
from ledgerd.enclave.program import check_version, is_version
from ledgerd.enclave.sessions import remote_of
from ledgerd.enclave.throttle import Throttle
from ledgerd.governance import tables
from ledgerd.ledger import cbor
from ledgerd.ledger.attestation.binding import PROTOCOL_VERSION, binding_digest
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.evidence import Verdict
from ledgerd.ledger.attestation.measurement import configuration_digest
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import ConfigurationError, PeerError, RequestError
from ledgerd.ledger.ids import NodeId, Seqno

NONCE_SIZE_BYTES: Final = 32
NONCE_LIFETIME_SECONDS: Final = 60.0  # a joiner answers within milliseconds; a minute bears a machine that swaps
CATCHING_UP_ENTRIES: Final = 1_000  # a node that lacks so many, a tenth of a second's work, is let in before the next one
REQUEST_SIZE_BYTES_MAX: Final = 256 << 10  # before its JSON is read; evidence, endorsements and data, at their longest, take half
NONCES_MAX: Final = 1 << 16  # 10 MB; the oldest goes first, and nobody can ask for so many while a joiner has its document made


class Admitting(Protocol):
    """What admission asks of the node it runs on."""

    @property
    def is_primary(self) -> bool: ...
    @property
    def primary_id(self) -> NodeId | None: ...
    @property
    def now(self) -> float: ...
    @property
    def now_ms(self) -> int: ...
    @property
    def configuration(self) -> Configuration: ...
    @property
    def service(self) -> ServiceKeys: ...
    @property
    def committed_seqno(self) -> Seqno: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def store(self) -> Store: ...
    @property
    def live_nodes(self) -> frozenset[NodeId]: ...
    def catching_up(self, lag_max: int) -> frozenset[NodeId]: ...
    def secrets(self) -> list[LedgerSecret]: ...
    def log(self, level: str, text: str) -> None: ...


class Nonces:
    """Challenges given out, each good once and for a minute."""

    def __init__(self) -> None:
        self._given: dict[bytes, float] = {}

    def give(self, now: float) -> bytes:
        """Make a nonce at monotonic time `now`."""
        given = self._given
        while given and (len(given) >= NONCES_MAX or given[next(iter(given))] < now):
            del given[next(iter(given))]
        nonce = random_bytes(NONCE_SIZE_BYTES)
        self._given[nonce] = now + NONCE_LIFETIME_SECONDS
        return nonce

    def redeem(self, nonce: bytes, now: float) -> None:
        """Use a nonce up.

        Raises: AttestationError: rule `nonce`, it was never given out, was used before, or is too old.
        """
        expires = self._given.pop(nonce, None)
        if expires is None or expires < now:
            raise AttestationError(
                "nonce",
                f"{nonce[:8].hex()}..., which is stale, used or not from this node",
                f"a nonce this node gave out within the last {NONCE_LIFETIME_SECONDS:.0f} s",
                "ask for a new one at /node/join/nonce and have a document made for it",
            )


class Admission:
    """The endpoints `POST /node/join/nonce` and `POST /node/join`."""

    def __init__(self, node: Admitting, at_opening: Callable[[Store], WriteSet]) -> None:
        """Args: at_opening: gives what the service writes besides when it opens by itself."""
        self._node = node
        self._at_opening = at_opening
        self._nonces = Nonces()
        self._throttle = Throttle()  # of documents that do not verify
        self._telling = Throttle()  # of lines of the log: anybody may cause them, and they fill the disk that the ledger is on
        self._untold = 0  # refusals since the last that was told

    def add_to(self, registry: Registry) -> None:
        """Add both endpoints."""
        registry.add(built_in("POST", "/join/nonce", self._nonce, readonly=True, forwarding="never"))
        registry.add(built_in("POST", "/join", self._join, forwarding="never"))

    def _nonce(self, context: Context) -> Result:
        self._redirect_to_primary(context, "/node/join/nonce")
        return {"nonce": self._nonces.give(self._node.now).hex(), "protocol_version": PROTOCOL_VERSION}

    def _redirect_to_primary(self, context: Context, path: str) -> None:
        node = self._node
        if node.is_primary:
            return
        if node.primary_id is None:
            raise RequestError(503, "PrimaryNotFound", "No primary is known; an election is going on. Ask again.", (("retry-after", "1"),))
        location = f"https://{address_of(context, node.primary_id)}{path}"
        raise RequestError(308, "NodeCannotHandleRequest", "Only the primary admits nodes; follow `location`.", (("location", location),))

    def _join(self, context: Context) -> Result:
        self._redirect_to_primary(context, "/node/join")
        request = _JoinRequest(context.request.body)
        try:
            key = _checked_key(request, self._node.configuration.curve)
            verdict = self._attest(context, request, spki(key))
            _check_signed(request)
        except (AttestationError, PeerError) as error:
            self._tell(context, f"refused a node that asked to join: {error}")
            raise RequestError(401, "InvalidQuote", str(error)) from None
        except ConfigurationError as error:
            self._tell(context, f"the members' join policy cannot be read, so nobody joins: {error}")
            raise RequestError(500, "InternalError", f"The service's join policy cannot be read: {error}") from None
        node_id = node_id_of(spki(key))
        nodes = context.kv[tables.NODE_INFO]
        stored = nodes.get(node_id.encode())
        if context.kv[tables.FORMER_NODES].get(node_id.encode()) is not None:
            raise RequestError(
                400, "NodeAlreadyExists", f"Node {node_id} was a node, or asked to be one, and is for good no more; start a new enclave."
            )
        if stored is None:
            return self._record(context, request, verdict, node_id, key)
        record = tables.decode(stored)
        version = nodes.version_of(node_id.encode())
        assert version is not None, "it is stored"
        if record["status"] == tables.RETIRED:
            raise RequestError(400, "NodeAlreadyExists", f"Node {node_id} is retired; start a new enclave, which makes a new identity.")
        # One after the other: a node counts in the majority from the moment it is trusted, and while it reads a long ledger it
        # acknowledges nothing new. Two such nodes at once could be one too many.
        if (
            record["status"] == tables.PENDING
            and version <= self._node.committed_seqno
            and self._node.settings["admission"] == "automatic"
            and not self._node.catching_up(CATCHING_UP_ENTRIES)
            # Whom a change of the ledger's secret does not name has to be given the new one, which must be there for good then.
            and (context.kv[tables.ENCRYPTED_LEDGER_SECRETS].version_of(tables.SINGLETON) or 0) <= self._node.committed_seqno
        ):
            self.trust(context, node_id, record, request.certificate_request, at_milliseconds(self._node.now_ms))
            self._node.log("info", f"node {node_id[:16]}... at {request.rpc} is trusted, as the genesis says of every attested node")
        if record["status"] != tables.TRUSTED:
            return {"node_status": tables.PENDING, "node_id": node_id}
        return self._secrets(context, request, node_id)

    def _tell(self, context: Context, refusal: str) -> None:
        """Tell the operator of a refusal, or only how many there were."""
        remote, now = remote_of(context.request.reply_to), self._node.now
        if not self._telling.allows(remote, now):
            self._untold += 1
            return
        self._telling.refused(remote, now)
        self._node.log("warning", f"{refusal} (and {self._untold} more before that)" if self._untold else refusal)
        self._untold = 0

    def _attest(self, context: Context, request: "_JoinRequest", public_key: bytes) -> Verdict:
        node = self._node
        remote = remote_of(context.request.reply_to)
        if not self._throttle.allows(remote, node.now):
            raise RequestError(
                429, "TooManyRequests", "Too many documents were refused just now; ask again in a second.", (("retry-after", "1"),)
            )
        self._nonces.redeem(request.nonce, node.now)
        check_version(request.program, context.governance(tables.MINIMUM_VERSION).get(tables.SINGLETON))
        verifier = accepted(context).verifier_of(request.evidence)
        expected = node.configuration.relevant(node.service.public)
        if request.configuration != expected:
            raise PeerError(
                "configuration refused by rule 'configuration': the joiner's differs from this service's in "
                f"{differing_keys(request.configuration, expected)}; start it with the service's own values"
            )
        try:
            return verifier.verify_now(
                request.evidence,
                now_ms=node.now_ms,
                nonce=request.nonce,
                public_key=public_key,
                user_data=binding_digest(request.configuration, request.encryption_key, request.program),
                configuration=configuration_digest(request.configuration),
            )
        except AttestationError:
            self._throttle.refused(remote, node.now)
            raise

    def _record(
        self, context: Context, request: "_JoinRequest", verdict: Verdict, node_id: NodeId, key: ec.EllipticCurvePublicKey
    ) -> Result:
        record = node_record(
            str(request.rpc),
            str(request.peer),
            status=tables.PENDING,
            public_key_pem=key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            encryption_key_pem=encryption_key_pem(request.encryption_key),
            request_pem=request.certificate_request.public_bytes(Encoding.PEM).decode(),
            code_digest=verdict.code_digest,
            quote_info=record_of(request.evidence),
            node_data=request.node_data,
            program=request.program,
        )
        context.kv[tables.NODE_INFO].set(node_id.encode(), tables.encode(record))
        word = "SIMULATED attestation" if verdict.simulated else "attestation"
        self._node.log("info", f"node {node_id[:16]}... at {request.rpc} asks to join, by {word} of {verdict.machine}")
        return {"node_status": tables.PENDING, "node_id": node_id}

    def trust(
        self,
        context: Context,
        node_id: NodeId,
        record: dict[str, Any],
        request: x509.CertificateSigningRequest,
        valid_from: datetime,
        days: int = CERTIFICATE_VALIDITY_DAYS,
    ) -> None:
        """Trust a node, and endorse its key in the same entry: its signatures count from there.

        Args:
            record: The node's, which changes.
            request: For its certificate, checked.
            valid_from, days: Of that certificate; see `ServiceKeys.endorse`.
        """
        record["status"] = tables.TRUSTED
        context.kv[tables.NODE_INFO].set(node_id.encode(), tables.encode(record))
        certificate = self._node.service.endorse(request, valid_from, days)
        context.kv[tables.NODE_ENDORSED_CERTIFICATES].set(node_id.encode(), certificate.public_bytes(Encoding.PEM))
        trusted = trusted_nodes(node_records(context))
        for name, changes in (self.opening(len(trusted)) or {}).items():
            for key, value in changes.items():
                context.kv[name].set(key, value or b"")
        self._warn_of_a_wait(node_id, trusted)

    def _warn_of_a_wait(self, node_id: NodeId, trusted: frozenset[NodeId]) -> None:
        """Tell an operator who sees commits stand still why, where a node counts that has a long ledger to read first."""
        node, needed = self._node, majority(len(trusted))
        up = len((trusted - {node_id}) & node.live_nodes)
        if up < needed and node.committed_seqno > CATCHING_UP_ENTRIES:
            node.log(
                "warning",
                f"nothing commits until node {node_id[:16]}... has read the ledger, {node.committed_seqno} entries: it takes {needed} of "
                f"{len(trusted)} nodes, and of the others {up} {'is' if up == 1 else 'are'} up",
            )

    def opening(self, trusted: int) -> WriteSet | None:
        """The writes that open the service by itself once `trusted` nodes are trusted, as its genesis may say; None if it is not time."""
        service = tables.decode(self._node.store.get(tables.SERVICE_INFO, tables.SINGLETON) or b"{}")
        wanted = self._node.settings.get("open_at_nodes")
        if wanted is None or trusted < wanted or service.get("status") != tables.OPENING:
            return None
        opened: WriteSet = {tables.SERVICE_INFO: {tables.SINGLETON: tables.encode({**service, "status": tables.OPEN})}}
        return {**opened, **self._at_opening(self._node.store)}

    def _secrets(self, context: Context, request: "_JoinRequest", node_id: NodeId) -> Result:
        node = self._node
        box = SealedBox(PublicKey(request.encryption_key))
        sealed = box.encrypt(
            cbor.encode(
                {
                    "node_id": node_id,
                    "service_key": node.service.private_bytes(),
                    "ledger_secrets": [[version, secret] for version, secret in node.secrets()],
                }
            )
        )
        endorsed = context.kv[tables.NODE_ENDORSED_CERTIFICATES].get(node_id.encode())
        assert endorsed is not None, "a trusted node was endorsed by the entry that trusts it"
        # Who leaves is needed until that is final, this node perhaps: a joiner that did not know it could not even acknowledge its entries.
        records = context.kv[tables.NODE_INFO]
        peers = {
            key.decode(): record["node_to_node_interface"]["published_address"]
            for key, value in records.items()
            if (record := tables.decode(value))["status"] != tables.PENDING
            and not is_removable(record, records.version_of(key), node.committed_seqno)
        }
        node.log("info", f"gave the service's secrets to node {node_id[:16]}..., sealed to its attested enclave")
        return {
            "node_status": tables.TRUSTED,
            "node_id": node_id,
            "network_info": {
                "sealed": base64.b64encode(sealed).decode(),
                "endorsed_certificate": endorsed.decode(),
                "service_certificate": node.service.certificate_pem,
                "peers": peers,
            },
        }


def _checked_key(request: "_JoinRequest", curve: str) -> ec.EllipticCurvePublicKey:
    """The key that the certificate request names, which must be the attested one, and is if the evidence verifies."""
    key = request.requested_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
        found = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else "no elliptic curve"
        raise PeerError(
            f"certificate request refused by rule 'curve': its key is on {found}, this service and its nodes have their keys on {curve}; "
            "a node takes the curve from the service certificate that it joins by, so give it this service's"
        )
    return key


def _check_signed(request: "_JoinRequest") -> None:
    """Check the certificate request's own signature, last: an algorithm of the sender's choice can cost as much as the sender likes."""
    try:
        is_signed = request.certificate_request.is_signature_valid
    except Exception:  # an algorithm that the library does not know, and whatever else it finds
        is_signed = False
    if not is_signed:
        raise PeerError("the certificate request is not signed by its own key")


def encryption_key_pem(key: bytes) -> str:
    """PEM of a raw X25519 public key, as the tables keep it."""
    return X25519PublicKey.from_public_bytes(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class _JoinRequest:
    """The body of `POST /node/join`, read and bounded."""

    def __init__(self, body: bytes) -> None:
        """Raises: RequestError: 400, a field is missing or malformed."""
        try:
            if len(body) > REQUEST_SIZE_BYTES_MAX:
                raise ValueError
            root = json.loads(body)
            self.nonce = bytes.fromhex(root["nonce"])
            self.evidence = parse_evidence(root["quote_info"])
            self.encryption_key = base64.b64decode(root["public_encryption_key"], validate=True)
            self.configuration: dict[str, Any] = root["configuration"]
            self.certificate_request = x509.load_pem_x509_csr(root["certificate_signing_request"].encode())
            self.requested_key = self.certificate_request.public_key()
            self.rpc = read_address(root["node_info_network"]["rpc"])
            self.peer = read_address(root["node_info_network"]["peer"])
            self.node_data = root.get("node_data")
            self.program: str = root["program"]
            if len(self.encryption_key) != 32 or type(self.configuration) is not dict or not is_data(self.node_data):
                raise ValueError
            if not is_version(self.program):
                raise ValueError
            _check_names(self.certificate_request)
            cbor.encode(self.configuration)
        except Exception:  # what reading a stranger's certificate request and JSON can raise is a long list, and grows
            raise RequestError(
                400, "InvalidInput", "The join request is not of this service's version; see docs/formats/join.md."
            ) from None


def _check_names(request: x509.CertificateSigningRequest) -> None:
    for extension in request.extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName) or len(list(extension.value)) > NAMES_MAX:
            raise ValueError
        if not all(isinstance(name, (x509.DNSName, x509.IPAddress)) for name in extension.value):
            raise ValueError
