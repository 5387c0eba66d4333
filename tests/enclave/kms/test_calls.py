"""What is asked of KMS, byte for byte, and answers of every kind: read, or refused with a typed error."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.kms import calls
from ledgerd.enclave.kms.calls import Call, DataKey, parse_key_arn
from ledgerd.enclave.kms.errors import KmsRefusedError
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError, UsageError
from ledgerd.node.simulator.envelope import envelope

ARN = parse_key_arn("arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555")
KEY = rsa.generate_private_key(65537, 2048)
PLAINTEXT = bytes(range(32))
CONTEXT = {"ledgerd:purpose": "test"}
DATA_KEY = calls.generate_data_key(ARN, CONTEXT)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answer(**change: Any) -> dict[str, Any]:
    """What KMS says to GenerateDataKey."""
    sealed = base64_of(envelope(PLAINTEXT, KEY.public_key(), primitive=True))
    return {"KeyId": ARN.text, "CiphertextBlob": base64_of(b"wrapped"), "CiphertextForRecipient": sealed, "Plaintext": "", **change}


def read(fields: object, status: int = 200) -> bytes | DataKey:
    return calls.read_answer(DATA_KEY, status, json.dumps(fields).encode(), KEY)


def test_requests_are_those_of_the_api_reference() -> None:
    recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": base64_of(b"document")}
    asked: list[tuple[Call, dict[str, Any]]] = [
        (DATA_KEY, {"KeyId": ARN.text, "KeySpec": "AES_256", "EncryptionContext": CONTEXT}),
        (calls.decrypt(ARN, b"blob", CONTEXT), {"KeyId": ARN.text, "CiphertextBlob": "YmxvYg==", "EncryptionContext": CONTEXT}),
        (calls.generate_random(32), {"NumberOfBytes": 32}),
    ]
    for call, parameters in asked:
        assert json.loads(calls.request_body(call, b"document")) == {**parameters, "Recipient": recipient}
        assert calls.request_headers(call, "h")["x-amz-target"] == f"TrentService.{call.operation}"


def test_a_right_answer_is_read() -> None:
    found = read(answer())
    assert isinstance(found, DataKey)
    assert (found.plaintext, found.wrapped) == (PLAINTEXT, b"wrapped")
    assert isinstance(read(answer(Plaintext=None)), DataKey)


@pytest.mark.parametrize(
    "change",
    [
        {"KeyId": "arn:aws:kms:eu-central-1:111122223333:key/another"},
        {"KeyId": None},
        {"Plaintext": base64_of(PLAINTEXT)},
        {"Plaintext": True},
        {"CiphertextBlob": ""},
        {"CiphertextBlob": ["YQ=="]},
        {"CiphertextBlob": "A" * 10_000},
        {"CiphertextForRecipient": None},
        {"CiphertextForRecipient": "A" * 100_000},
        {"CiphertextForRecipient": "\u00e9"},
        {"CiphertextForRecipient": base64_of(envelope(bytes(31), KEY.public_key(), primitive=True))},
    ],
)
def test_a_wrong_answer_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        read(answer(**change))


@pytest.mark.parametrize("size", [0, calls.CIPHERTEXT_SIZE_BYTES_MAX + 1])
def test_what_kms_would_not_take_is_not_sent(size: int) -> None:
    with pytest.raises(FormatError):
        calls.decrypt(ARN, bytes(size), CONTEXT)


def test_misuse_is_told() -> None:
    for size in (0, 1025):
        with pytest.raises(UsageError):
            calls.generate_random(size)
    for context in ({"": "x"}, {"x": ""}, {str(number): "x" for number in range(17)}):
        with pytest.raises(UsageError):
            calls.generate_data_key(ARN, context)


@pytest.mark.parametrize(
    ("status", "body", "reason", "passing"),
    [
        (400, b'{"__type":"AccessDeniedException","Message":"User: x is not authorized"}', "AccessDeniedException", False),
        (400, b'{"__type":"com.amazonaws.kms#ThrottlingException"}', "ThrottlingException", True),
        (400, b'{"__type":"KMSInternalException:http://x"}', "KMSInternalException", True),
        (500, b"", "an unnamed error", True),
        (403, b"<html>", "an unnamed error", False),
        (400, b'{"__type":7,"message":[]}', "an unnamed error", False),
        (302, b"{}", "an unnamed error", False),
        (201, json.dumps(answer()).encode(), "an unnamed error", False),
    ],
)
def test_refusals_are_named(status: int, body: bytes, reason: str, passing: bool) -> None:
    with pytest.raises(KmsRefusedError) as caught:
        calls.read_answer(DATA_KEY, status, body, KEY)
    assert (caught.value.reason, caught.value.passing) == (reason, passing)


def test_no_error_holds_the_plaintext() -> None:
    texts = []
    for change in ({"Plaintext": base64_of(PLAINTEXT)}, {"CiphertextBlob": ""}, {"KeyId": "x"}):
        with pytest.raises(LedgerdError) as caught:
            read(answer(**change))
        texts.append(str(caught.value))
    assert base64_of(PLAINTEXT) not in "".join(texts)
    assert PLAINTEXT.hex() not in "".join(texts)


WIRE = json.dumps(answer()).encode()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_place_of_an_answer_are_refused_with_a_typed_error(data: st.DataObject) -> None:
    made = bytearray(WIRE)
    start = data.draw(st.integers(0, len(made)))
    made[start : start + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    try:
        found = calls.read_answer(DATA_KEY, data.draw(st.sampled_from([200, 200, 400, 500])), bytes(made), KEY)
    except (FormatError, IntegrityError, KmsRefusedError):
        return
    assert isinstance(found, DataKey)
    assert len(found.plaintext) == 32


@given(st.dictionaries(st.sampled_from(["KeyId", "CiphertextBlob", "CiphertextForRecipient", "Plaintext", "__type", "message"]), VALUES))
@settings(max_examples=100, deadline=None)
def test_values_of_other_types_are_refused_with_a_typed_error(change: dict[str, Any]) -> None:
    for status in (200, 400):
        try:
            read(answer(**change), status)
        except (FormatError, IntegrityError, KmsRefusedError):
            continue
