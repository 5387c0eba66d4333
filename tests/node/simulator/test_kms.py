"""The simulated KMS judged from outside, without the enclave's client: signatures, documents, and errors by name."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.nsm import attestation
from ledgerd.node.kms_policy import key_policy
from ledgerd.node.simulator.key_policy import KeyPolicy
from ledgerd.node.simulator.kms import Answer, Caller, SimulatedKms
from ledgerd.node.simulator.kms_server import KmsServer, make_identity
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import make_root
from support.kms import BEGIN, BEGIN_S, CALLER, PCRS, ROLE, ROOT, SERVER_NAME, Clock

RSA = rsa.generate_private_key(65537, 2048)
OPEN = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}}


class Account:
    """A simulated KMS, its clock, and requests signed here by the letter of AWS's description."""

    def __init__(self, *callers: Caller) -> None:
        self.clock = Clock(BEGIN_S)
        self.kms = SimulatedKms([ROOT.certificate_pem], callers or [CALLER], clock=self.clock)
        self.nsm = SimulatedNsm(ROOT, PCRS, clock=self.clock)

    def sign(self, operation: str, body: bytes, caller: Caller = CALLER, change: Mapping[str, str] | None = None) -> dict[str, str]:
        stamp = datetime.fromtimestamp(self.clock.now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "host": SERVER_NAME,
            "x-amz-date": stamp,
            "x-amz-security-token": caller.session_token or "",
            "x-amz-target": f"TrentService.{operation}",
        }
        names = ";".join(headers)
        asked = "POST\n/\n\n" + "".join(f"{name}:{value}\n" for name, value in headers.items())
        asked += f"\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{stamp[:8]}/eu-central-1/kms/aws4_request"
        key = b"AWS4" + caller.secret_access_key.encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        line = f"AWS4-HMAC-SHA256 Credential={caller.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {**headers, "authorization": line, **(change or {})}

    def ask(self, operation: str, fields: dict[str, Any], caller: Caller = CALLER) -> Answer:
        body = json.dumps(fields).encode()
        return self.kms.request("POST", "/", self.sign(operation, body, caller), body)

    def document(self, key: bytes | None = None, nsm: SimulatedNsm | None = None) -> bytes:
        spki = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return attestation(nsm or self.nsm, user_data=None, nonce=None, public_key=key or spki)

    def recipient(self, document: bytes | None = None) -> dict[str, str]:
        raw = base64.b64encode(document or self.document()).decode()
        return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": raw}


def kind(answer: Answer) -> str:
    return "" if answer.status == 200 else json.loads(answer.body)["__type"]


def fields_of(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.fixture
def account() -> Account:
    return Account()


def test_a_document_decides_who_gets_the_key(account: Account) -> None:
    arn = account.kms.create_key(key_policy([PCRS], [ROLE]))
    asked = {"KeyId": arn, "KeySpec": "AES_256"}
    assert kind(account.ask("GenerateDataKey", asked)) == "AccessDeniedException"
    given = fields_of(account.ask("GenerateDataKey", {**asked, "Recipient": account.recipient()}))
    assert "Plaintext" not in given
    opening = {"CiphertextBlob": given["CiphertextBlob"]}
    assert kind(account.ask("Decrypt", opening)) == "AccessDeniedException"
    assert "CiphertextForRecipient" in fields_of(account.ask("Decrypt", {**opening, "Recipient": account.recipient()}))
    for nsm in (SimulatedNsm(ROOT, {**PCRS, 0: b"x" * 48}, clock=account.clock), SimulatedNsm(ROOT, PCRS, debug=True, clock=account.clock)):
        other = account.recipient(account.document(nsm=nsm))
        assert kind(account.ask("Decrypt", {**opening, "Recipient": other})) == "AccessDeniedException"


def test_without_the_denial_a_plain_call_gets_the_plaintext(account: Account) -> None:
    """The pitfall: a second statement, such as AWS's default one, makes the condition of the first worthless."""
    lax = key_policy([PCRS], [ROLE])
    statements = [item for item in lax["Statement"] if item["Effect"] == "Allow"]
    careless = {"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:*", "Resource": "*"}
    arn = account.kms.create_key({**lax, "Statement": [*statements, careless]})
    asked = {"KeyId": arn, "KeySpec": "AES_256"}
    assert base64.b64decode(fields_of(account.ask("GenerateDataKey", asked))["Plaintext"])
    arn = account.kms.create_key({**lax, "Statement": [*lax["Statement"], careless]})
    assert kind(account.ask("GenerateDataKey", {**asked, "KeyId": arn})) == "AccessDeniedException"


def test_nobody_can_make_a_ciphertext_of_his_own(account: Account) -> None:
    """Else a host could give the enclave a data key that it knows."""
    lax = key_policy([PCRS], [ROLE])
    careless = {"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:*", "Resource": "*"}
    arn = account.kms.create_key({**lax, "Statement": [*lax["Statement"], careless]})
    assert kind(account.ask("Encrypt", {"KeyId": arn, "Plaintext": base64.b64encode(bytes(32)).decode()})) == "AccessDeniedException"
    assert kind(account.ask("Encrypt", {"KeyId": account.kms.create_key(OPEN), "Plaintext": "AAAA"})) == ""


def test_documents_below_another_root_are_refused(account: Account) -> None:
    arn = account.kms.create_key(OPEN)
    foreign = SimulatedNsm(make_root(BEGIN), PCRS, clock=account.clock)
    asked = {"KeyId": arn, "KeySpec": "AES_256", "Recipient": account.recipient(account.document(nsm=foreign))}
    answer = account.ask("GenerateDataKey", asked)
    assert kind(answer) == "ValidationException"
    assert b"rule root" in answer.body


@pytest.mark.parametrize(("later_s", "said"), [(301, "ms old"), (3 * 3600 + 10, "rule validity"), (-120, "")])
def test_a_document_is_good_for_minutes(account: Account, later_s: int, said: str) -> None:
    arn = account.kms.create_key(OPEN)
    recipient = account.recipient()
    asked = {"KeyId": arn, "KeySpec": "AES_256", "Recipient": recipient}
    assert kind(account.ask("GenerateDataKey", asked)) == ""
    account.clock.now_s += 200
    assert kind(account.ask("GenerateDataKey", asked)) == "", "KMS makes no challenge, so a replay within minutes passes: to the same key"
    account.clock.now_s += later_s - 200
    answer = account.ask("GenerateDataKey", asked)
    assert kind(answer) == "ValidationException"
    assert said in json.loads(answer.body)["message"]


def test_every_changed_byte_of_a_document_is_refused(account: Account) -> None:
    arn = account.kms.create_key(OPEN)
    document = account.document()
    for position in range(0, len(document), 97):
        changed = document[:position] + bytes((document[position] ^ 1,)) + document[position + 1 :]
        asked = {"KeyId": arn, "KeySpec": "AES_256", "Recipient": account.recipient(changed)}
        assert kind(account.ask("GenerateDataKey", asked)) == "ValidationException"


@pytest.mark.parametrize("which", ["nonsense", "ec", "rsa-3072"])
def test_the_attested_key_must_be_rsa_2048(account: Account, which: str) -> None:
    other: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    if which == "ec":
        other = ec.generate_private_key(ec.SECP384R1()).public_key()
    else:
        other = rsa.generate_private_key(65537, 3072).public_key()
    public = b"nonsense" if which == "nonsense" else other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    asked = {"KeyId": account.kms.create_key(OPEN), "KeySpec": "AES_256", "Recipient": account.recipient(account.document(public))}
    assert kind(account.ask("GenerateDataKey", asked)) == "ValidationException"


BODY = b'{"NumberOfBytes": 8}'
RANDOM_ANYWHERE = CALLER._replace(
    iam=KeyPolicy({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}, of_key=False)
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"authorization": "Basic x"}, "IncompleteSignatureException"),
        ({"x-amz-date": "yesterday"}, "IncompleteSignatureException"),
        ({"x-amz-date": "20260921T000000Z"}, "InvalidSignatureException"),
        ({"x-amz-security-token": "another"}, "UnrecognizedClientException"),
        ({"host": "kms.us-east-1.amazonaws.com"}, "InvalidSignatureException"),
        ({"x-amz-target": "TrentService.Decrypt"}, "InvalidSignatureException"),
        ({"content-type": "application/json"}, "InvalidSignatureException"),
    ],
)
def test_what_is_not_signed_so_is_refused(change: dict[str, str], expected: str) -> None:
    account = Account(RANDOM_ANYWHERE)
    headers = account.sign("GenerateRandom", BODY, change=change)
    assert kind(account.kms.request("POST", "/", headers, BODY)) == expected


def test_signatures_cover_body_caller_scope_and_time() -> None:
    account = Account(RANDOM_ANYWHERE)
    headers = account.sign("GenerateRandom", BODY)
    assert kind(account.kms.request("POST", "/", headers, BODY + b" ")) == "InvalidSignatureException"
    line = headers["authorization"]
    for seen, put in (
        ("/kms/", "/s3/"),
        ("eu-central-1", "eu-west-1"),
        ("SignedHeaders=content-type;host;", "SignedHeaders=content-type;"),
    ):
        changed = {**headers, "authorization": line.replace(seen, put)}
        assert kind(account.kms.request("POST", "/", changed, BODY)) == "InvalidSignatureException"
    without = {name: value for name, value in headers.items() if name != "authorization"}
    assert kind(account.kms.request("POST", "/", without, BODY)) == "MissingAuthenticationTokenException"
    wrong = account.sign("GenerateRandom", BODY, CALLER._replace(secret_access_key="x" * 40))
    assert kind(account.kms.request("POST", "/", wrong, BODY)) == "InvalidSignatureException"
    unknown = account.sign("GenerateRandom", BODY, CALLER._replace(access_key_id="ASIANOBODY0000000000"))
    assert kind(account.kms.request("POST", "/", unknown, BODY)) == "UnrecognizedClientException"
    account.clock.now_s += 301
    assert kind(account.kms.request("POST", "/", headers, BODY)) == "InvalidSignatureException"


def test_random_bytes_are_the_account_s_to_allow() -> None:
    assert kind(Account(CALLER._replace(iam=None)).ask("GenerateRandom", {"NumberOfBytes": 8})) == "AccessDeniedException"
    plain = fields_of(Account(RANDOM_ANYWHERE).ask("GenerateRandom", {"NumberOfBytes": 8}))
    assert len(base64.b64decode(plain["Plaintext"])) == 8


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        ("Sign", {}, "UnknownOperationException"),
        ("GenerateRandom", {"NumberOfBytes": 0}, "ValidationException"),
        ("GenerateRandom", {"NumberOfBytes": "8"}, "ValidationException"),
        ("GenerateDataKey", {}, "ValidationException"),
        ("GenerateDataKey", {"KeyId": "nobody"}, "NotFoundException"),
        ("Decrypt", {"CiphertextBlob": "AAAA"}, "InvalidCiphertextException"),
        ("Decrypt", {"CiphertextBlob": 7}, "SerializationException"),
        ("GenerateRandom", {"NumberOfBytes": 8, "Recipient": []}, "ValidationException"),
        ("GenerateRandom", {"NumberOfBytes": 8, "Recipient": {"KeyEncryptionAlgorithm": "RSAES_PKCS1_V1_5"}}, "ValidationException"),
        (
            "GenerateRandom",
            {"NumberOfBytes": 8, "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AAAA"}},
            "ValidationException",
        ),
    ],
)
def test_wrong_requests_are_refused_by_name(operation: str, fields: dict[str, Any], expected: str) -> None:
    assert kind(Account(RANDOM_ANYWHERE).ask(operation, fields)) == expected


def test_secrets_of_callers_are_not_shown() -> None:
    assert CALLER.secret_access_key not in repr(CALLER)


def test_it_answers_over_https_to_others_clients() -> None:
    """The standard library's TLS, with the authority that the simulator made."""
    account = Account(RANDOM_ANYWHERE)
    identity = make_identity(SERVER_NAME)
    with KmsServer(account.kms, identity) as server:
        context = ssl.create_default_context(cadata=identity.root_pem)
        plain = socket.create_connection((server.host, server.port), 60)
        with context.wrap_socket(plain, server_hostname=SERVER_NAME) as connection:
            for _ in range(2):
                headers = account.sign("GenerateRandom", BODY)
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                connection.sendall(f"POST / HTTP/1.1\r\n{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY)
                received = b""
                while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                    part = connection.recv(65536)
                    assert part, received
                    received += part
                assert received.startswith(b"HTTP/1.1 200 ")
    server.close()
