"""Asking to be admitted: the joiner's side, from the first byte to the service's secrets.

The joiner believes nobody: it pins the service certificate that its operator gave it, has the other node attest itself for a nonce of its
own, and only then shows its own document. It polls with a fresh nonce and document each time until it is trusted, and opens the box that
only it can open.
Not here: the primary's side (`enclave.admission`), what happens once it is in (`enclave.serving`).
"""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.exceptions import CryptoError
from nacl.public import SealedBox

from ledgerd.enclave.boundary import Connect, Ready
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.configuration import Configuration, JoinConfiguration, differing_keys
from ledgerd.enclave.entropy import random_bytes
from ledgerd.enclave.keys import NodeKeys, ServiceKeys, parse_certificate, receive_service_keys
from ledgerd.enclave.ledger_secrets import checked as checked_secrets
from ledgerd.enclave.nsm import Nsm, attestation
from ledgerd.enclave.outbound import Answer, HttpClient
from ledgerd.enclave.program import VERSION
from ledgerd.enclave.tls import TlsContext
from ledgerd.ledger import cbor
from ledgerd.ledger.attestation.binding import binding_digest, service_digest
from ledgerd.ledger.attestation.evidence import NITRO
from ledgerd.ledger.attestation.measurement import Measurement, configuration_digest, read_triples, shown_triples
from ledgerd.ledger.attestation.policy import Policy, verify_now
from ledgerd.ledger.attestation.roots import parse_roots
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError, PeerError, UsageError
from ledgerd.ledger.ids import NodeId

PATIENCE_SECONDS: Final = 0.02  # to the first poll; doubled up to the limit
PATIENCE_SECONDS_MAX: Final = 1.0
WAITING_SECONDS: Final = 2.0  # for trust, before the operator is told whose turn it is
ANSWER_SECONDS_MAX: Final = 10.0  # for one answer; then another attempt
ATTEMPTS_MAX: Final = 60  # connections that failed in a row, with patience between them: about a minute

Submit = Callable[[Callable[[Nsm], object], Callable[[Any], None]], None]


class Admitted(NamedTuple):
    """What a trusted joiner gets; `accepts` are the images that it, and the node that admitted it, was told to accept."""

    service: ServiceKeys
    ledger_secrets: list[tuple[int, bytes]]
    certificate: x509.Certificate
    peers: dict[NodeId, str]
    genesis_digest: bytes
    accepts: tuple[tuple[bytes, bytes, bytes], ...]


class JoinRefusedError(LedgerdError):
    """The service will not have this node, or this node will not have the service; trying again would not help."""

    code = "JoinRefused"


class Refuser(Protocol):
    """Told when joining is over, one way or the other."""

    def admitted(self, admitted: Admitted) -> None: ...
    def join_refused(self, reason: str) -> None: ...
    def log(self, level: str, text: str) -> None: ...


class Joining:
    """One node's attempt to join. Every input is followed by `carry_out`."""

    def __init__(
        self,
        configuration: Configuration,
        join: JoinConfiguration,
        keys: NodeKeys,
        own_measurement: tuple[bytes, bytes, bytes],
        clock: AttestedClock,
        listener: Refuser,
        submit: Submit,
        next_stream: Callable[[], int],
        now: float,
    ) -> None:
        """Raises: FormatError: The service certificate in the configuration is not one."""
        self._configuration = configuration
        self._keys = keys
        self._clock = clock
        self._listener = listener
        self._submit = submit
        self._next_stream = next_stream
        self._service = parse_certificate(join.service_certificate)
        self._service_public = spki_of(self._service)
        self._accepted = configuration.accepted(own_measurement)
        self._policy = Policy(parse_roots(configuration.roots), frozenset(Measurement(*line) for line in self._accepted))
        self._relevant = configuration.relevant(self._service_public)
        self._user_data = binding_digest(self._relevant, keys.encryption_public, VERSION)
        self._request_pem = keys.certificate_request(configuration.names).public_bytes(Encoding.PEM).decode()
        self._context = TlsContext.for_dialled()
        self._told = (join.target.host, join.target.port)  # by the configuration
        self._led_to = self._told  # by the last redirection
        self._target = self._told  # now
        self._client: HttpClient | None = None
        self._stream: int | None = None
        self._connected = False
        self._server_public = b""
        self._expecting: Callable[[Answer], None] | None = None
        self._deadline = now
        self._next_step: Callable[[], None] | None = self._dial
        self._patience = PATIENCE_SECONDS
        self._attempts = 0
        self._waits_since: float | None = None  # for trust
        self._nonce = b""
        self._genesis_digest = b""
        self._accepted_there: tuple[tuple[bytes, bytes, bytes], ...] = ()
        self._now = now
        self._closes: list[int] = []
        self._connects: list[Connect] = []

    # Inputs.

    def owns(self, stream: int) -> bool:
        """True if the stream is the one to the node that is asked."""
        return stream == self._stream

    def opened(self) -> None:
        """The host has connected."""
        self._connected = True
        self._client = HttpClient(self._context, f"{self._target[0]}:{self._target[1]}", self._check_server)
        self._challenge()

    def received(self, data: bytes) -> None:
        """Bytes of the stream."""
        if self._client is None:
            return
        try:
            for answer in self._client.received(data):
                expecting, self._expecting = self._expecting, None
                if expecting is not None:
                    expecting(answer)
        except (PeerError, IntegrityError) as error:
            self._retry(f"{self._target[0]}:{self._target[1]}: {error}")
        except JoinRefusedError as error:
            self._refuse(str(error))

    def closed(self) -> None:
        """The stream is gone, or could not be had."""
        self._stream = None
        self._retry(f"no connection to {self._target[0]}:{self._target[1]}")

    def tick(self, now: float) -> None:
        """Learn the time; take the step that was put off."""
        self._now = now
        if now < self._deadline:
            return
        step, self._next_step = self._next_step, None
        if step is not None:
            self._deadline = now + ANSWER_SECONDS_MAX
            step()
        else:
            self._retry(f"no answer from {self._target[0]}:{self._target[1]}")

    def next_wakeup(self) -> float:
        """When `tick` is due."""
        return self._deadline

    def carry_out(self, ready: Ready) -> None:
        """Say what the host must do."""
        ready.connects.extend(self._connects)
        self._connects.clear()
        if self._client is not None and self._stream is not None and self._connected:
            data = self._client.take_output()
            if data:
                ready.peer_bytes.append((self._stream, data))
        ready.closes.extend(self._closes)
        self._closes.clear()

    # Steps, in their order.

    def _dial(self) -> None:
        self._stream = self._next_stream()
        self._connected = False
        self._connects.append(Connect(self._stream, *self._target))

    def _check_server(self, chain: list[bytes]) -> None:
        """Judge the server's certificate: endorsed by the very service that the operator named."""
        if not chain:
            raise IntegrityError("the node shows no certificate")
        try:
            certificate = x509.load_der_x509_certificate(chain[0])
            certificate.verify_directly_issued_by(self._service)
            self._server_public = spki_of(certificate)
        except Exception:  # of a stranger's bytes; the library's list of what it raises is long and grows
            raise IntegrityError(
                "the node's certificate is not endorsed by the service certificate in this node's configuration; is it of another service?"
            ) from None

    def _ask(self, method: str, path: str, body: bytes, then: Callable[[Answer], None]) -> None:
        if self._client is None or not self._client.reusable:
            self._retry(f"{self._target[0]}:{self._target[1]} ended the connection")
            return
        self._deadline = self._now + ANSWER_SECONDS_MAX
        self._expecting = then
        self._client.request(method, path, {"content-type": "application/json"} if body else None, body)

    def _challenge(self) -> None:
        self._nonce = random_bytes(32)
        self._ask("GET", f"/node/attestations/self?nonce={self._nonce.hex()}", b"", self._judge)

    def _judge(self, answer: Answer) -> None:
        body = self._json(answer, 200)
        try:
            document = base64.b64decode(body["raw"], validate=True)
            self._genesis_digest = bytes.fromhex(body["genesis_digest"])
            told = dict(body["configuration"])
            told_digest = configuration_digest(told)
            self._accepted_there = tuple(read_triples(body["accepts"]))
            shown = shown_triples(self._accepted_there)
            bound = service_digest(self._service_public, self._genesis_digest, shown, dict(body["settings"]))
        except (KeyError, ValueError, TypeError, binascii.Error, UsageError, FormatError):
            raise PeerError("its attestation has no document, genesis digest, configuration, accepted measurements or settings") from None
        try:
            verify_now(
                document,
                self._policy,
                now_ms=self._clock.milliseconds(self._now),
                nonce=self._nonce,
                public_key=self._server_public,
                user_data=bound,
                configuration=told_digest,
            )
        except IntegrityError as error:
            raise JoinRefusedError(f"this node will not join: the other node's {error}") from None
        if told != self._relevant:
            raise JoinRefusedError(
                "this node will not join, by rule 'configuration': the service's attested configuration differs from this node's in "
                f"{differing_keys(told, self._relevant)}; start this node with the service's own values"
            )
        self._attempts = 0
        self._ask_nonce()

    def _ask_nonce(self) -> None:
        self._ask("POST", "/node/join/nonce", b"", self._document)

    def _document(self, answer: Answer) -> None:
        if self._redirected(answer):
            return
        body = self._json(answer, 200)
        try:
            nonce = bytes.fromhex(body["nonce"])
        except (KeyError, ValueError, TypeError):
            raise PeerError("its nonce is not hexadecimal") from None
        user_data, public_key, stream = self._user_data, self._keys.public, self._stream

        def done(result: Any) -> None:
            if self._stream != stream:
                return
            if isinstance(result, Exception):
                self._refuse(f"the security module gives no document: {result}")
            else:
                self._send(nonce, result)

        self._submit(lambda nsm: attestation(nsm, user_data=user_data, nonce=nonce, public_key=public_key), done)

    def _send(self, nonce: bytes, document: bytes) -> None:
        configuration = self._configuration
        body = {
            "nonce": nonce.hex(),
            "quote_info": {"format": NITRO, "quote": base64.b64encode(document).decode()},
            "public_encryption_key": base64.b64encode(self._keys.encryption_public).decode(),
            "configuration": self._relevant,
            "program": VERSION,
            "certificate_signing_request": self._request_pem,
            "node_info_network": {"rpc": str(configuration.rpc), "peer": str(configuration.peer)},
            "node_data": configuration.node_data,
            "startup_seqno": 0,
        }
        self._ask("POST", "/node/join", json.dumps(body).encode(), self._answered)

    def _answered(self, answer: Answer) -> None:
        if self._redirected(answer):
            return
        if answer.status in (400, 401):
            raise JoinRefusedError(f"the service refuses this node: {_message(answer)}")
        body = self._json(answer, 200)
        if body.get("node_status") != "Trusted":
            self._tell_of_waiting()
            self._later(self._ask_nonce)
            return
        try:
            admitted = self._open(body["network_info"])
        except (KeyError, IndexError, AttributeError, ValueError, TypeError, CryptoError, InvalidSignature, FormatError):
            raise PeerError("the box with the service's secrets cannot be opened or read") from None
        if self._stream is not None:
            self._closes.append(self._stream)
        self._stream = None
        self._client = None
        self._deadline = float("inf")
        self._listener.admitted(admitted)

    def _tell_of_waiting(self) -> None:
        """Where members vote, a joiner is told what it waits for, once; where nobody is asked it is trusted before that."""
        if self._waits_since is None:
            self._waits_since = self._now
        elif self._now >= self._waits_since + WAITING_SECONDS:
            self._waits_since = float("inf")
            self._listener.log(
                "info",
                f"the service has verified this node, which waits to be trusted: where members vote, one of them proposes it by "
                f"`ledgerd gov propose transition-node-to-trusted --node-id {self._keys.id}`",
            )

    def _open(self, info: dict[str, Any]) -> Admitted:
        secrets = cbor.decode(SealedBox(self._keys.encryption).decrypt(base64.b64decode(info["sealed"], validate=True)))
        if secrets["node_id"] != self._keys.id:
            raise PeerError("the box with the service's secrets is for another node")
        service = receive_service_keys(secrets["service_key"], self._service)
        certificate = parse_certificate(info["endorsed_certificate"])
        certificate.verify_directly_issued_by(self._service)
        if spki_of(certificate) != self._keys.public:
            raise PeerError("the certificate that came with the service's secrets is for another node's key")
        return Admitted(
            service,
            checked_secrets(secrets["ledger_secrets"]),
            certificate,
            {NodeId(node_id): str(address) for node_id, address in info["peers"].items()},
            self._genesis_digest,
            # Whom the other let in before us holds the same secrets, so what it accepted is as much a part of what we vouch for.
            (*self._accepted, *self._accepted_there),
        )

    # What may go wrong.

    def _json(self, answer: Answer, status: int) -> dict[str, Any]:
        if answer.status != status:
            raise PeerError(f"answers {answer.status}: {_message(answer)}")
        try:
            body = json.loads(answer.body)
        except (ValueError, RecursionError):
            body = None
        if type(body) is not dict:
            raise PeerError("its answer is not a JSON object")
        return body

    def _redirected(self, answer: Answer) -> bool:
        location = answer.location
        if location is None:
            return False
        try:
            parts = urlsplit(location)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port or parts.scheme != "https":
            raise PeerError("it points to a place that is not https://HOST:PORT")
        self._target = self._led_to = (host, port)
        self._drop()
        self._later(self._dial)
        return True

    def _drop(self) -> None:
        if self._stream is not None:
            self._closes.append(self._stream)
        self._stream = None
        self._client = None
        self._expecting = None

    def _later(self, step: Callable[[], None]) -> None:
        self._next_step = step
        self._deadline = self._now + self._patience
        self._patience = min(2 * self._patience, PATIENCE_SECONDS_MAX)

    def _retry(self, why: str) -> None:
        self._attempts += 1
        self._drop()
        if self._attempts >= ATTEMPTS_MAX:
            self._refuse(f"gave up after {self._attempts} attempts; the last: {why}")
            return
        if self._attempts in (1, 10):
            self._listener.log("warning", f"joining: {why}; trying again")
        # The primary that it was led to may be gone for good; the node of the configuration knows the next one, unless that one is gone.
        self._target = self._led_to if self._target == self._told else self._told
        self._later(self._dial)

    def _refuse(self, reason: str) -> None:
        self._drop()
        self._next_step = None
        self._deadline = float("inf")
        self._listener.join_refused(reason)


def spki_of(certificate: x509.Certificate) -> bytes:
    """DER SubjectPublicKeyInfo of a certificate's key."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _message(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"]["message"])[:2000]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"(an answer of {len(answer.body)} bytes without CCF's error shape)"
