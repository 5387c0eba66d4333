"""The envelope of KMS's answers: AWS's own vectors to their parts, what the simulator writes opens, everything else is a typed refusal."""

import re

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.kms import ber, cms
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.node.simulator.envelope import envelope
from support.vectors import vectors

KEY = rsa.generate_private_key(65537, 2048)
CHUNKED = envelope(b"thirty-two bytes of a data key!!", KEY.public_key(), primitive=False)
PRIMITIVE = envelope(b"thirty-two bytes of a data key!!", KEY.public_key(), primitive=True)


@pytest.mark.parametrize("name", ["input_ber", "input_ber_w_ctx"])
def test_aws_s_vectors_have_exactly_the_expected_parts(name: str) -> None:
    folder = vectors("kms")
    found = cms.read((folder / f"{name}.ber").read_bytes())
    assert found == tuple((folder / f"{name}.{part}").read_bytes() for part in ("encrypted_key_out", "iv_out", "ciphertext_out"))


@pytest.mark.parametrize("name", ["input_ber", "input_ber_w_ctx"])
def test_every_cut_and_every_extension_of_a_vector_is_refused(name: str) -> None:
    data = (vectors("kms") / f"{name}.ber").read_bytes()
    for end in range(len(data)):
        with pytest.raises(FormatError):
            cms.read(data[:end])
    for more in (b"\0", b"\0\0", data):
        with pytest.raises(FormatError):
            cms.read(data + more)


@pytest.mark.parametrize("name", ["input_ber", "input_ber_w_ctx"])
def test_a_changed_bit_of_a_vector_is_refused_unless_it_is_in_a_part_or_in_the_key_s_name(name: str) -> None:
    folder = vectors("kms")
    data = (folder / f"{name}.ber").read_bytes()
    parts = [(folder / f"{name}.{part}").read_bytes() for part in ("encrypted_key_out", "iv_out", "ciphertext_out")]
    free = {data.index(part) + offset for part in parts for offset in range(len(part))} | set(range(0x21, 0x41))
    accepted = set()
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            try:
                cms.read(bytes(changed))
            except FormatError:
                continue
            accepted.add(position)
    assert accepted == free


@pytest.mark.parametrize("size", [1, 15, 16, 32, 999, 1000, 4096])
@pytest.mark.parametrize("primitive", [False, True])
def test_what_the_simulator_writes_opens(size: int, primitive: bool) -> None:
    plaintext = bytes(range(256)) * 16
    data = envelope(plaintext[:size], KEY.public_key(), primitive=primitive)
    assert cms.open_envelope(cms.read(data), KEY) == plaintext[:size]


def test_the_simulator_s_bytes_are_those_of_aws_but_for_the_secret_parts() -> None:
    def hidden(data: bytes) -> bytes:
        for part in cms.read(data):
            data = data.replace(part, b"?")
        return data[:0x21] + data[0x41:]

    # The lengths that stand before the ciphertext differ with it.
    for name, size, primitive in (("input_ber", 47, False), ("input_ber_w_ctx", 1, True)):
        made = envelope(bytes(size), KEY.public_key(), primitive=primitive)
        assert hidden(made) == hidden((vectors("kms") / f"{name}.ber").read_bytes())


def test_definite_lengths_are_read_too() -> None:
    content = CHUNKED
    definite = content[:1] + b"\x82" + (len(content) - 4).to_bytes(2, "big") + content[2:-2]
    assert cms.read(definite) == cms.read(CHUNKED)


def test_an_envelope_for_another_key_does_not_open() -> None:
    with pytest.raises(IntegrityError, match="does not open"):
        cms.open_envelope(cms.read(CHUNKED), rsa.generate_private_key(65537, 2048))


@pytest.mark.parametrize("part", [0, 2])
def test_every_failure_to_open_says_the_same(part: int) -> None:
    """Wrong key, wrong padding: an answer that told them apart would be an oracle."""
    said = set()
    read = cms.read(CHUNKED)
    for position in range(0, len(read[part]), 5):
        changed = list(read)
        changed[part] = read[part][:position] + bytes((read[part][position] ^ 1,)) + read[part][position + 1 :]
        try:
            cms.open_envelope(cms.Envelope(*changed), KEY)
        except IntegrityError as error:
            said.add(str(error))
    assert len(said) == 1


def test_without_padding_or_with_a_short_key_it_does_not_open() -> None:
    read = cms.read(PRIMITIVE)
    with pytest.raises(IntegrityError):
        cms.open_envelope(read._replace(ciphertext=read.ciphertext[:16]), KEY)


WRONG = {
    "another content type": (bytes.fromhex("2a864886f70d010703"), bytes.fromhex("2a864886f70d010702")),
    "PKCS#1 1.5": (bytes.fromhex("2a864886f70d010107"), bytes.fromhex("2a864886f70d010101")),
    "SHA-1 in OAEP": (bytes.fromhex("608648016503040201"), bytes.fromhex("608648016503040204")),
    "AES-128": (bytes.fromhex("60864801650304012a"), bytes.fromhex("608648016503040102")),
    "AES-256-GCM": (bytes.fromhex("60864801650304012a"), bytes.fromhex("60864801650304012e")),
    "version 3": (bytes.fromhex("020102"), bytes.fromhex("020103")),
    "another type inside": (bytes.fromhex("2a864886f70d010701"), bytes.fromhex("2a864886f70d010703")),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_algorithms_and_versions_are_refused(name: str) -> None:
    seen, put = WRONG[name]
    assert seen in CHUNKED
    for match in re.finditer(re.escape(seen), CHUNKED):
        with pytest.raises(FormatError, match="not one that KMS makes"):
            cms.read(CHUNKED[: match.start()] + put + CHUNKED[match.end() :])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x04\x80\x00\x00",
        b"\x30\x85\x00\x00\x00\x00\x00",
        b"\x30\xff",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x1f\x01\x00",
        b"\x00\x00",
        b"\x30\x80" * 5000,
        b"\x30\x80" * 13 + b"\0\0" * 13,
        b"\x30\x82\x02\x00" + b"\x05\x00" * 256,
        b"\x30\x80" + b"\x05\x00" * 200 + b"\0\0",
        b"\x30\x02\x30\x80\x00\x00",
        bytes(ber.SIZE_BYTES_MAX + 1),
    ],
)
def test_hostile_ber_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        ber.read(data)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (ber.read, cms.read):
        try:
            read(data)
        except FormatError:
            continue


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_is_refused_or_does_not_open_or_is_outside_of_what_counts(data: st.DataObject) -> None:
    """Cut, repeat, replace and insert; whatever is still read has parts of the right sizes."""
    made = bytearray(data.draw(st.sampled_from([CHUNKED, PRIMITIVE])))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(made)))
        end = data.draw(st.integers(start, min(len(made), start + 40)))
        made[start:end] = data.draw(st.one_of(st.binary(max_size=8), st.just(bytes(made[start:end]) * 2)))
    try:
        found = cms.read(bytes(made))
    except FormatError:
        return
    assert (len(found.encrypted_key), len(found.iv), len(found.ciphertext) % 16) == (256, 16, 0)
    try:
        cms.open_envelope(found, KEY)
    except IntegrityError:
        return
