"""PCR arithmetic, against values of AWS's own hardware where there are any."""

import json
from hashlib import sha384

import pytest

from ledgerd.ledger.attestation.measurement import (
    ZERO,
    Measurement,
    certificate_pcr,
    ext,
    extend,
    image_pcrs,
    instance_pcr,
    parse_measurement,
    role_pcr,
)
from ledgerd.ledger.errors import ConfigurationError
from support.vectors import vectors

# A genuine enclave extended its PCR16 by "hello".
HELLO = "30e84b2d"


def test_extend_takes_raw_data() -> None:
    assert extend(ZERO, b"hello").hex().startswith(HELLO)


def test_pcr4_measures_the_instance_of_genuine_documents() -> None:
    entries = json.loads(vectors("nitro", "manifest.json").read_text())["documents"]
    genuine = [entry for entry in entries if entry["expect"] == "valid"]
    assert genuine
    for entry in genuine:
        assert instance_pcr(entry["module_id"].rpartition("-enc")[0]).hex() == entry["pcrs"]["4"]


def test_sections_are_hashed_before_they_extend() -> None:
    assert ext(b"x") == sha384(bytes(48) + sha384(b"x").digest()).digest() == certificate_pcr(b"x")
    assert role_pcr("arn:aws:iam::1:role/r") == sha384(bytes(48) + b"arn:aws:iam::1:role/r").digest()


def test_an_image_is_measured_as_a_whole_by_platform_and_by_ours() -> None:
    assert image_pcrs(b"k", b"c", [b"0", b"1", b"2"]) == Measurement(ext(b"kc012"), ext(b"kc0"), ext(b"12"))


def test_measurements_are_read_from_hex() -> None:
    line = parse_measurement("0A" * 48, "0b" * 48, "00" * 48, pcr3="0d" * 48)
    assert line == Measurement(b"\x0a" * 48, b"\x0b" * 48, ZERO, None, b"\x0d" * 48)


@pytest.mark.parametrize("wrong", ["", "00" * 48, "0a" * 47, "0a" * 49, "0a " * 32, "xx" * 48, "\uff10a" * 48])
def test_other_texts_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_measurement(wrong, "0b" * 48, "0c" * 48)
    with pytest.raises(ConfigurationError):
        parse_measurement("0a" * 48, wrong, "0c" * 48)
