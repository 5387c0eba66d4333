"""Attested calls to KMS, one after the other: a fresh RSA key and document, TLS through the host's relay, one request, the answer opened.

Every attempt has its own key, so what answered one call never opens in another, and its own connection. What passes (no connection,
silence, throttling) is tried again, a few times and with patience; a refusal, a server that is not KMS and an answer that KMS does not
give are final. The result goes to a callback: bytes, a DataKey, or a LedgerdError. Every input is followed by `carry_out`.
Not here: what is asked (`enclave.kms.calls`), whom to believe (`enclave.kms.trust`), where credentials come from (the host hands them in).
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.boundary import Connect, Ready
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.keys import at_milliseconds
from ledgerd.enclave.kms import calls, cms, sigv4
from ledgerd.enclave.kms.calls import Call, KeyArn
from ledgerd.enclave.kms.errors import KmsRefusedError, KmsUnavailableError
from ledgerd.enclave.kms.sigv4 import Credentials
from ledgerd.enclave.kms.trust import server_check
from ledgerd.enclave.nsm import Nsm, attestation
from ledgerd.enclave.outbound import Answer, HttpClient
from ledgerd.enclave.tls import TlsContext
from ledgerd.ledger.errors import LedgerdError, PeerError, UsageError

PORT: Final = 443
ATTEMPT_SECONDS_MAX: Final = 10.0  # from making the key to the last byte of the answer; KMS needs some 10 ms
ATTEMPTS_MAX: Final = 6
PATIENCE_SECONDS: Final = 0.1  # after the first attempt; doubled with each further one
WAITING_MAX: Final = 64  # calls that wait; a node makes a handful in its life

Submit = Callable[[Callable[[Nsm], object], Callable[[Any], None]], None]
Done = Callable[[Any], None]
"""Told how a call ended: bytes, a DataKey, or a LedgerdError."""


class Endpoint(NamedTuple):
    """Where KMS is.

    Attributes:
        name: DNS name that its certificate must have.
        host, port: What the host is asked to connect to; a relay or a simulator may stand elsewhere.
        region: In which signatures hold.
    """

    name: str
    host: str
    port: int
    region: str


def endpoint_of(key: KeyArn) -> Endpoint:
    """AWS's own endpoint for a key."""
    return Endpoint(key.endpoint, key.endpoint, PORT, key.region)


class _Attested(NamedTuple):
    """What one attempt is made with."""

    key: rsa.RSAPrivateKey
    document: bytes


def prepare(nsm: Nsm) -> _Attested:
    """Make an RSA key and have it attested; takes about 100 ms, so it is for a worker thread. Raises: as `nsm.attestation`."""
    key = rsa.generate_private_key(65537, cms.KEY_SIZE_BITS)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _Attested(key, attestation(nsm, user_data=None, nonce=None, public_key=public))


class KmsClient:
    """The calls of one enclave to one region's KMS."""

    def __init__(
        self,
        endpoint: Endpoint,
        roots: tuple[x509.Certificate, ...],
        credentials: Credentials,
        clock: AttestedClock,
        submit: Submit,
        next_stream: Callable[[], int],
        now: float,
    ) -> None:
        """Args: submit: runs work with the security module in a thread. next_stream: gives a fresh number for a stream we ask for."""
        self._endpoint = endpoint
        self._roots = roots
        self._credentials = credentials
        self._clock = clock
        self._submit = submit
        self._next_stream = next_stream
        self._now = now
        self._context = TlsContext.for_dialled()
        self._waiting: deque[tuple[Call, Done]] = deque()
        self._current: tuple[Call, Done] | None = None
        self._attempt = 0  # of the current call
        self._number = 0  # of all attempts ever; a result of an older one is dropped
        self._attested: _Attested | None = None
        self._stream: int | None = None
        self._http: HttpClient | None = None
        self._deadline = float("inf")
        self._pausing = False
        self._connects: list[Connect] = []
        self._closes: list[int] = []

    # Inputs.

    def ask(self, call: Call, done: Done) -> None:
        """Make a call; `done` is told the result, possibly before this returns.

        Raises: UsageError: Too many wait already.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise UsageError(f"{WAITING_MAX} calls to KMS wait already")
        self._waiting.append((call, done))
        self._next()

    def use(self, credentials: Credentials) -> None:
        """Sign with these from the next attempt on: an instance's credentials last for hours."""
        self._credentials = credentials

    def owns(self, stream: int) -> bool:
        """True if the stream is the present one to KMS."""
        return stream == self._stream

    def opened(self) -> None:
        """The host has connected our stream."""
        if self._current is None or self._attested is None or self._http is not None:
            return
        call, endpoint = self._current[0], self._endpoint
        body = calls.request_body(call, self._attested.document)
        now_ms = self._clock.milliseconds(self._now)
        headers = sigv4.sign(
            self._credentials,
            method="POST",
            path="/",
            headers=calls.request_headers(call, endpoint.name),
            body=body,
            region=endpoint.region,
            service=calls.SERVICE,
            at_ms=now_ms,
        )
        check = server_check(self._roots, endpoint.name, lambda: at_milliseconds(now_ms))
        self._http = HttpClient(
            self._context, endpoint.name, check, server_name=endpoint.name, answer_size_bytes_max=calls.ANSWER_SIZE_BYTES_MAX
        )
        self._http.request("POST", "/", headers, body)

    def received(self, data: bytes) -> None:
        """Bytes of our stream."""
        if self._http is None:
            return
        try:
            answers = self._http.received(data)
        except PeerError as error:
            self._again(str(error))
        except LedgerdError as error:  # the server is not KMS
            self._finish(error)
        else:
            if answers:
                self._answered(answers[0])

    def closed(self) -> None:
        """Our stream is gone, or could not be had."""
        self._stream = None
        self._again(f"no connection to {self._endpoint.host}:{self._endpoint.port}")

    def tick(self, now: float) -> None:
        """Learn the time; give up an attempt, or begin the next."""
        self._now = now
        if now < self._deadline:
            return
        if self._pausing:
            self._begin()
        else:
            self._again(f"no answer within {ATTEMPT_SECONDS_MAX:.0f} seconds")

    def next_wakeup(self) -> float:
        """When `tick` is due."""
        return self._deadline

    def carry_out(self, ready: Ready) -> None:
        """Say what the host must do."""
        ready.connects.extend(self._connects)
        self._connects.clear()
        if self._http is not None and self._stream is not None:
            data = self._http.take_output()
            if data:
                ready.peer_bytes.append((self._stream, data))
        ready.closes.extend(self._closes)
        self._closes.clear()

    # One attempt.

    def _next(self) -> None:
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._attempt = 0
            self._begin()

    def _begin(self) -> None:
        self._attempt += 1
        self._number += 1
        self._pausing = False
        self._deadline = self._now + ATTEMPT_SECONDS_MAX
        number = self._number
        self._submit(prepare, lambda result: self._prepared(number, result))

    def _prepared(self, number: int, result: Any) -> None:
        if number != self._number or self._pausing or self._current is None:
            return
        if not isinstance(result, _Attested):
            self._finish(KmsUnavailableError(f"the security module gives no document for a call to KMS: {result}; is /dev/nsm there?"))
            return
        self._attested = result
        self._stream = self._next_stream()
        self._connects.append(Connect(self._stream, self._endpoint.host, self._endpoint.port))

    def _answered(self, answer: Answer) -> None:
        assert self._current is not None and self._attested is not None, "an answer comes to what was asked"
        result: Any
        try:
            result = calls.read_answer(self._current[0], answer.status, answer.body, self._attested.key)
        except KmsRefusedError as error:
            if error.passing:
                self._again(str(error))
                return
            result = error
        except LedgerdError as error:
            result = error
        self._finish(result)

    def _again(self, why: str) -> None:
        if self._current is None or self._pausing:
            return
        self._drop()
        if self._attempt >= ATTEMPTS_MAX:
            self._finish(
                KmsUnavailableError(
                    f"{self._current[0].operation} of KMS failed {self._attempt} times; the last: {why}; "
                    f"can this host reach {self._endpoint.host}:{self._endpoint.port}?"
                )
            )
            return
        self._pausing = True
        self._deadline = self._now + PATIENCE_SECONDS * 2 ** (self._attempt - 1)

    def _finish(self, result: Any) -> None:
        assert self._current is not None, "what ends has begun"
        done = self._current[1]
        self._drop()
        self._current = None
        self._pausing = False
        self._number += 1
        self._deadline = float("inf")
        done(result)
        self._next()

    def _drop(self) -> None:
        """Forget connection and key."""
        if self._stream is not None:
            self._closes.append(self._stream)
        self._stream = None
        self._http = None
        self._attested = None
