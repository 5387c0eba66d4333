"""A KMS in software, for tests and development: signed requests in, answers out; it does what the real one does about attested calls.

The caller's signature is checked, the attestation document verified below the simulated root, the key's policy evaluated with the
document's PCRs, and what comes out is encrypted to the document's key. Keys live in memory. Written against AWS's documentation and test
data, not against `enclave.kms`, so that each checks the other. Time is an input. Safe to use from several threads.
Unlike the real one: documents must be younger than five minutes (AWS does not say how old is too old), and which error KMS gives for a bad
document is a guess: ValidationException.
Not here: policies (`node.simulator.key_policy`), the envelope (`node.simulator.envelope`), HTTPS (`node.simulator.kms_server`).
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.nitro import Attestation, verify
from ledgerd.ledger.attestation.roots import parse_roots
from ledgerd.node.simulator.envelope import envelope
from ledgerd.node.simulator.key_policy import KeyPolicy, Request

DOCUMENT_AGE_MS_MAX: Final = 300_000
CLOCK_SKEW_SECONDS_MAX: Final = 300  # AWS's own, of signatures
BODY_SIZE_BYTES_MAX: Final = 64 << 10
PLAINTEXT_SIZE_BYTES_MAX: Final = 4_096

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([A-Za-z0-9]+)/([0-9]{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?"
    r"Signature=([0-9a-f]{64})"
)
_SIGNED_ALWAYS: Final = frozenset({"host", "x-amz-date", "x-amz-target"})


class Caller(NamedTuple):
    """Whose credentials these are.

    Attributes:
        arn: Of the role.
        iam: What the account lets the role do; None: nothing but what key policies give.
    """

    access_key_id: str
    secret_access_key: str
    session_token: str | None
    arn: str
    iam: KeyPolicy | None = None

    @property
    def account(self) -> str:
        """Twelve digits."""
        return self.arn.split(":")[4]

    def __repr__(self) -> str:
        return f"Caller({self.arn})"


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes


class _Refusal(Exception):
    """Becomes an answer in KMS's form."""

    def __init__(self, kind: str, message: str = "", status: int = 400) -> None:
        super().__init__(kind)
        self.kind = kind
        self.message = message
        self.status = status


class _Key:
    """One key of the account."""

    def __init__(self, policy: KeyPolicy) -> None:
        self.policy = policy
        self.enabled = True
        self.material = AESGCM(secrets.token_bytes(32))


class SimulatedKms:
    """The keys of one account in one region.

    Args:
        roots: PEM of the attestation roots that count here: a simulator's.
        callers: Whose signatures are known.
        clock: Seconds since 1970.
        primitive: Write the encrypted content in one piece rather than in chunks; AWS does both.

    Attributes:
        reasons: Why each request was decided as it was; for the operator of the simulator, not for callers.
    """

    def __init__(
        self,
        roots: Sequence[str],
        callers: Sequence[Caller],
        *,
        region: str = "eu-central-1",
        account: str = "111122223333",
        clock: Callable[[], float] = time.time,
        primitive: bool = False,
    ) -> None:
        self._roots = parse_roots(roots)
        self._callers = {caller.access_key_id: caller for caller in callers}
        self.region = region
        self.account = account
        self._clock = clock
        self._primitive = primitive
        self._keys: dict[str, _Key] = {}
        self._lock = threading.Lock()
        self.reasons: list[str] = []

    def create_key(self, policy: str | Mapping[str, Any]) -> str:
        """Make a key with a policy; return its ARN. Raises: ConfigurationError: The policy is none, or not understood."""
        arn = f"arn:aws:kms:{self.region}:{self.account}:key/{uuid.uuid4()}"
        self._keys[arn] = _Key(KeyPolicy(policy))
        return arn

    def put_key_policy(self, arn: str, policy: str | Mapping[str, Any]) -> None:
        """Give a key another policy, as whoever may do so in the account can."""
        self._keys[arn].policy = KeyPolicy(policy)

    def disable_key(self, arn: str) -> None:
        """Disable a key."""
        self._keys[arn].enabled = False

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer one request; header names are in lower case."""
        with self._lock:
            try:
                return Answer(200, json.dumps(self._answer(method, path, headers, body)).encode())
            except _Refusal as refusal:
                self.reasons.append(f"{refusal.kind}: {refusal.message}")
                fields = {"__type": refusal.kind} | ({"message": refusal.message} if refusal.message else {})
                return Answer(refusal.status, json.dumps(fields).encode())

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        if method != "POST" or path != "/":
            raise _Refusal("UnknownOperationException", status=404)
        if len(body) > BODY_SIZE_BYTES_MAX:
            raise _Refusal("RequestEntityTooLargeException", status=413)
        caller = self._authenticate(headers, body)
        prefix, _, operation = headers.get("x-amz-target", "").partition(".")
        handler = self._HANDLERS.get(operation)
        if prefix != "TrentService" or handler is None or headers.get("content-type") != "application/x-amz-json-1.1":
            raise _Refusal("UnknownOperationException", f"{operation or 'no operation'} is not simulated")
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise _Refusal("SerializationException")
        return handler(self, caller, fields)

    # Who asks.

    def _authenticate(self, headers: Mapping[str, str], body: bytes) -> Caller:
        match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if "authorization" not in headers:
            raise _Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
        stamp = headers.get("x-amz-date", "")
        if match is None or re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", stamp) is None:
            raise _Refusal("IncompleteSignatureException", "the Authorization or X-Amz-Date header is not of Signature Version 4")
        access_key, date, region, service, listed, signature = match.groups()
        caller = self._callers.get(access_key)
        if caller is None or not hmac.compare_digest(headers.get("x-amz-security-token", ""), caller.session_token or ""):
            raise _Refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
        names = listed.split(";")
        if (date, region, service) != (stamp[:8], self.region, "kms") or not set(names) >= _SIGNED_ALWAYS or names != sorted(set(names)):
            raise _Refusal(
                "InvalidSignatureException", "Credential should be scoped to this date, region and service, and cover the target."
            )
        lines = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in names)
        asked = f"POST\n/\n\n{lines}\n{listed}\n{hashlib.sha256(body).hexdigest()}"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{date}/{region}/{service}/aws4_request\n{hashlib.sha256(asked.encode()).hexdigest()}"
        key = b"AWS4" + caller.secret_access_key.encode()
        for part in (date, region, service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest(), signature):
            raise _Refusal("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
        try:
            signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise _Refusal("IncompleteSignatureException", "X-Amz-Date is no date") from None
        if abs(signed_at - self._clock()) > CLOCK_SKEW_SECONDS_MAX:
            raise _Refusal("InvalidSignatureException", f"Signature expired, or not yet current: {stamp}")
        return caller

    # May it?

    def _allow(self, caller: Caller, operation: str, arn: str, fields: dict[str, Any], attestation: Attestation | None) -> None:
        encryption_context = self._context(fields)
        context: dict[str, str | tuple[str, ...]] = {
            "aws:PrincipalArn": caller.arn,
            "aws:PrincipalAccount": caller.account,
            "aws:SecureTransport": "true",
            "kms:CallerAccount": caller.account,
            **{f"kms:EncryptionContext:{name}": value for name, value in encryption_context.items()},
        }
        if encryption_context:
            context["kms:EncryptionContextKeys"] = tuple(encryption_context)
        if attestation is not None:
            context["kms:RecipientAttestation:ImageSha384"] = attestation.pcrs.get(0, b"").hex()
            context.update({f"kms:RecipientAttestation:PCR{index}": value.hex() for index, value in attestation.pcrs.items()})
        request = Request(frozenset({caller.arn}), caller.account, f"kms:{operation}", arn, context)
        if arn == "*":  # no key, so no key policy: the caller's account alone decides
            verdict = (caller.iam or _NOTHING).decide(request)
        else:
            verdict = self._keys[arn].policy.decide(request, caller.iam)
        self.reasons.append(f"{operation}: {verdict.because}")
        if not verdict.allowed:
            raise _Refusal(
                "AccessDeniedException",
                f"User: {caller.arn} is not authorized to perform: kms:{operation} on this resource: {verdict.because}",
            )

    def _key(self, fields: dict[str, Any]) -> str:
        given = fields.get("KeyId")
        if not isinstance(given, str):
            raise _Refusal("ValidationException", "KeyId is missing")
        arn = given if given.startswith("arn:") else f"arn:aws:kms:{self.region}:{self.account}:key/{given}"
        if arn not in self._keys:
            raise _Refusal("NotFoundException", f"Key '{given}' does not exist")
        return arn

    def _usable(self, arn: str) -> _Key:
        key = self._keys[arn]
        if not key.enabled:
            raise _Refusal("DisabledException", f"{arn} is disabled.")
        return key

    @staticmethod
    def _context(fields: dict[str, Any]) -> dict[str, str]:
        context = fields.get("EncryptionContext", {})
        if not isinstance(context, dict) or not all(isinstance(value, str) for value in context.values()):
            raise _Refusal("SerializationException")
        return context

    # To whom does it go?

    def _recipient(self, fields: dict[str, Any]) -> tuple[Attestation, rsa.RSAPublicKey] | None:
        recipient = fields.get("Recipient")
        if recipient is None:
            return None
        if not isinstance(recipient, dict) or recipient.get("KeyEncryptionAlgorithm") != "RSAES_OAEP_SHA_256":
            raise _Refusal("ValidationException", "KeyEncryptionAlgorithm must be RSAES_OAEP_SHA_256")
        now_ms = int(self._clock() * 1000)
        try:
            attestation = verify(_unbase64(recipient, "AttestationDocument"), self._roots, at_ms=now_ms)
        except AttestationError as error:
            raise _Refusal("ValidationException", f"the attestation document is not valid: rule {error.rule}") from None
        age_ms = now_ms - attestation.timestamp_ms
        if not -60_000 <= age_ms <= DOCUMENT_AGE_MS_MAX:
            raise _Refusal("ValidationException", f"the attestation document is {age_ms} ms old")
        try:
            key = load_der_public_key(attestation.public_key or b"")
        except ValueError:
            key = None
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 2048:
            raise _Refusal("ValidationException", "the attestation document's public key is no RSA key of 2,048 bits")
        return attestation, key

    def _give(self, plaintext: bytes, recipient: tuple[Attestation, rsa.RSAPublicKey] | None) -> dict[str, Any]:
        if recipient is None:
            return {"Plaintext": _base64(plaintext)}
        return {"CiphertextForRecipient": _base64(envelope(plaintext, recipient[1], primitive=self._primitive))}

    # Operations.

    def _decrypt(self, caller: Caller, fields: dict[str, Any]) -> dict[str, Any]:
        blob = _unbase64(fields, "CiphertextBlob")
        named = self._key(fields) if "KeyId" in fields else None
        arn = next((arn for arn in self._keys if blob.startswith(_mark(arn))), None)
        if arn is None:
            raise _Refusal("InvalidCiphertextException")
        recipient = self._recipient(fields)
        self._allow(caller, "Decrypt", named or arn, fields, recipient[0] if recipient else None)
        if named is not None and named != arn:
            raise _Refusal("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
        key = self._usable(arn)
        try:
            plaintext = key.material.decrypt(blob[16:28], blob[28:], _associated(self._context(fields)))
        except (InvalidTag, ValueError):
            raise _Refusal("InvalidCiphertextException") from None
        return {"KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", **self._give(plaintext, recipient)}

    def _generate_data_key(self, caller: Caller, fields: dict[str, Any]) -> dict[str, Any]:
        arn = self._key(fields)
        size = {"AES_256": 32, "AES_128": 16}.get(str(fields.get("KeySpec")))
        if size is None:
            raise _Refusal("ValidationException", "KeySpec must be AES_128 or AES_256")
        recipient = self._recipient(fields)
        self._allow(caller, "GenerateDataKey", arn, fields, recipient[0] if recipient else None)
        plaintext = secrets.token_bytes(size)
        return {"KeyId": arn, "CiphertextBlob": _base64(self._encrypted(arn, plaintext, fields)), **self._give(plaintext, recipient)}

    def _generate_random(self, caller: Caller, fields: dict[str, Any]) -> dict[str, Any]:
        size = fields.get("NumberOfBytes")
        if type(size) is not int or not 0 < size <= 1024:
            raise _Refusal("ValidationException", "NumberOfBytes must be 1 to 1024")
        recipient = self._recipient(fields)
        self._allow(caller, "GenerateRandom", "*", {}, recipient[0] if recipient else None)
        return self._give(secrets.token_bytes(size), recipient)

    def _encrypt(self, caller: Caller, fields: dict[str, Any]) -> dict[str, Any]:
        arn = self._key(fields)
        plaintext = _unbase64(fields, "Plaintext")
        if len(plaintext) > PLAINTEXT_SIZE_BYTES_MAX:
            raise _Refusal("ValidationException", f"Plaintext is longer than {PLAINTEXT_SIZE_BYTES_MAX} bytes")
        self._allow(caller, "Encrypt", arn, fields, None)  # takes no document
        return {
            "KeyId": arn,
            "CiphertextBlob": _base64(self._encrypted(arn, plaintext, fields)),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }

    def _encrypted(self, arn: str, plaintext: bytes, fields: dict[str, Any]) -> bytes:
        nonce = secrets.token_bytes(12)
        return _mark(arn) + nonce + self._usable(arn).material.encrypt(nonce, plaintext, _associated(self._context(fields)))

    _HANDLERS: Final[dict[str, Callable[["SimulatedKms", Caller, dict[str, Any]], dict[str, Any]]]] = {
        "Decrypt": _decrypt,
        "GenerateDataKey": _generate_data_key,
        "GenerateRandom": _generate_random,
        "Encrypt": _encrypt,
    }


_NOTHING: Final = KeyPolicy(
    {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*", "Sid": "no policy of the caller"}},
    of_key=False,
)


def _mark(arn: str) -> bytes:
    """First 16 bytes of everything that a key encrypts."""
    return hashlib.sha256(arn.encode()).digest()[:16]


def _associated(context: dict[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def _unbase64(fields: dict[str, Any], name: str) -> bytes:
    value = fields.get(name)
    try:
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError):
        raise _Refusal("SerializationException", f"{name} is not base64") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
