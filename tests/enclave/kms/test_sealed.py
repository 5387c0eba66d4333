"""Secrets that the host keeps: they open for the right image, purpose and service, and for nothing else; old ones only where allowed."""

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.kms import calls, sealed
from ledgerd.enclave.kms.calls import DataKey, parse_key_arn
from ledgerd.enclave.kms.errors import KmsRefusedError
from ledgerd.enclave.kms.sealed import Binding, Opened, bind
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError, LedgerdError
from support.kms import PCRS, Rig

ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"
SECRET = b"a private key, for example"
HERE = bind(parse_key_arn(ARN), "tls:ledger.example.org", b"the service's public key")
KEY = DataKey(bytes(range(32)), b"wrapped by KMS")
AT_MS = 1_790_000_000_000


def seal(rig: Rig, binding: Binding) -> bytes:
    before = len(rig.results)
    sealed.seal_by(rig.client.ask, binding, SECRET, AT_MS, rig.results.append)
    blob = rig.run(before)
    assert isinstance(blob, bytes), blob
    return blob


def unseal(rig: Rig, binding: Binding, blob: bytes, **more: int) -> Any:
    before = len(rig.results)
    sealed.open_by(rig.client.ask, binding, blob, rig.results.append, **more)
    return rig.run(before)


def test_an_image_opens_what_it_sealed_in_an_earlier_life() -> None:
    rig = Rig()
    binding = bind(parse_key_arn(rig.key()), "tls:ledger.example.org", b"service")
    blob = seal(rig, binding)
    assert SECRET not in blob
    again = Rig(kms=rig.kms)  # another enclave of the same image
    assert unseal(again, binding, blob) == Opened(SECRET, AT_MS)


def test_another_image_and_a_debug_enclave_do_not() -> None:
    rig = Rig()
    binding = bind(parse_key_arn(rig.key()), "tls:ledger.example.org", b"service")
    blob = seal(rig, binding)
    for other in (Rig(kms=rig.kms, pcrs={**PCRS, 2: b"\x01" * 48}), Rig(kms=rig.kms, debug=True)):
        result = unseal(other, binding, blob)
        assert isinstance(result, KmsRefusedError)
        assert result.reason == "AccessDeniedException"
        assert isinstance(sealed_by_other(other, binding), KmsRefusedError)


def sealed_by_other(rig: Rig, binding: Binding) -> Any:
    before = len(rig.results)
    sealed.seal_by(rig.client.ask, binding, SECRET, AT_MS, rig.results.append)
    return rig.run(before)


@pytest.mark.parametrize("field", ["purpose", "service", "key"])
def test_a_blob_for_something_else_is_refused_before_kms_is_asked(field: str) -> None:
    rig = Rig()
    binding = bind(parse_key_arn(rig.key()), "tls:ledger.example.org", b"service")
    other = {
        "purpose": binding._replace(purpose="recovery"),
        "service": binding._replace(service=bytes(32)),
        "key": binding._replace(key=parse_key_arn(ARN)),
    }[field]
    blob = seal(rig, binding)
    rig.connects.clear()
    result = unseal(rig, other, blob)
    assert isinstance(result, IntegrityError)
    assert field in str(result)
    assert rig.connects == []


@pytest.mark.parametrize("field", ["purpose", "service"])
def test_a_host_that_renames_a_blob_is_refused_by_kms(field: str) -> None:
    """The name is in KMS's encryption context: rewriting the blob does not help."""
    rig = Rig()
    binding = bind(parse_key_arn(rig.key()), "tls:ledger.example.org", b"service")
    renamed = binding._replace(purpose="recovery") if field == "purpose" else binding._replace(service=bytes(32))
    fields = cbor2.loads(seal(rig, binding))
    fields[field] = getattr(renamed, field)
    result = unseal(rig, renamed, cbor2.dumps(fields))
    assert isinstance(result, KmsRefusedError)
    assert result.reason == "InvalidCiphertextException"


def test_an_old_blob_opens_unless_a_floor_says_how_old_is_too_old() -> None:
    """The host may give back any blob that it ever had; this is the limit of what sealing can do."""
    blob = sealed.read(sealed.seal(KEY, HERE, SECRET, AT_MS))
    assert sealed.open_blob(blob, HERE, KEY.plaintext).secret == SECRET
    assert sealed.open_blob(blob, HERE, KEY.plaintext, not_before_ms=AT_MS).secret == SECRET
    with pytest.raises(IntegrityError, match="gives back an old one"):
        sealed.open_blob(blob, HERE, KEY.plaintext, not_before_ms=AT_MS + 1)


def test_the_parts_of_two_blobs_do_not_mix() -> None:
    first, second = (cbor2.loads(sealed.seal(DataKey(KEY.plaintext, wrapped), HERE, SECRET, AT_MS)) for wrapped in (b"one", b"two"))
    with pytest.raises(IntegrityError, match="changed"):
        sealed.open_blob(sealed.read(cbor2.dumps({**first, "wrapped": second["wrapped"]})), HERE, KEY.plaintext)


def test_the_wrong_data_key_does_not_open() -> None:
    blob = sealed.read(sealed.seal(KEY, HERE, SECRET, AT_MS))
    for key in (bytes(32), b"", b"short"):
        with pytest.raises(IntegrityError):
            sealed.open_blob(blob, HERE, key)


def test_two_blobs_of_one_secret_differ() -> None:
    assert sealed.seal(KEY, HERE, SECRET, AT_MS) != sealed.seal(KEY, HERE, SECRET, AT_MS)


def test_a_secret_that_is_too_large_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too large"):
        sealed.seal(KEY, HERE, bytes(sealed.SECRET_SIZE_BYTES_MAX + 1), AT_MS)
    largest = sealed.seal(KEY, HERE, bytes(sealed.SECRET_SIZE_BYTES_MAX), AT_MS)
    assert len(sealed.open_blob(sealed.read(largest), HERE, KEY.plaintext).secret) == sealed.SECRET_SIZE_BYTES_MAX


def test_nothing_shows_what_is_secret() -> None:
    blob = sealed.read(sealed.seal(KEY, HERE, SECRET, AT_MS))
    opened = sealed.open_blob(blob, HERE, KEY.plaintext)
    shown = repr(opened) + repr(blob) + repr(KEY)
    assert "private key" not in shown
    assert KEY.plaintext.hex() not in shown and repr(KEY.plaintext) not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"format": "ledgerd sealed secret 2"},
        {"service": b"short"},
        {"nonce": bytes(11)},
        {"wrapped": b""},
        {"wrapped": bytes(calls.CIPHERTEXT_SIZE_BYTES_MAX + 1)},
        {"key": "alias/x"},
        {"purpose": b"bytes"},
        {"more": 1},
    ],
)
def test_what_is_no_blob_is_refused(change: dict[str, Any]) -> None:
    fields = {**cbor2.loads(sealed.seal(KEY, HERE, SECRET, AT_MS)), **change}
    with pytest.raises(FormatError):
        sealed.read(cbor2.dumps(fields))
    for data in (b"", b"\xa0", bytes(sealed.BLOB_SIZE_BYTES_MAX + 1), cbor2.dumps([1])):
        with pytest.raises(FormatError):
            sealed.read(data)


BLOB = sealed.seal(KEY, HERE, SECRET, AT_MS)


def test_no_changed_bit_opens() -> None:
    for position in range(len(BLOB)):
        for bit in range(8):
            changed = bytearray(BLOB)
            changed[position] ^= 1 << bit
            with pytest.raises(LedgerdError):
                sealed.open_blob(sealed.read(bytes(changed)), HERE, KEY.plaintext)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_is_a_typed_refusal(data: st.DataObject) -> None:
    made = bytearray(BLOB)
    start = data.draw(st.integers(0, len(made)))
    end = data.draw(st.integers(start, len(made)))
    made[start:end] = data.draw(st.binary(max_size=40))
    try:
        opened = sealed.open_blob(sealed.read(bytes(made)), HERE, KEY.plaintext)
    except LedgerdError:
        return
    assert bytes(made) == BLOB, opened
