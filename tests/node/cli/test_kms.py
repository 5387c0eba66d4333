"""`ledgerd kms policy`: what it prints is what a simulated KMS then evaluates."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave.kms import calls
from ledgerd.enclave.kms.calls import DataKey, parse_key_arn
from ledgerd.enclave.kms.errors import KmsRefusedError
from ledgerd.node.image import eif
from ledgerd.node.image.signature import certificate_der, sign
from support import images
from support.command_line import Ledgerd
from support.kms import ADMIN, PCRS, ROLE, Rig

IMAGE = ["--pcr0", PCRS[0].hex(), "--pcr", f"1={PCRS[1].hex()}", "--pcr", f"2={PCRS[2].hex()}"]


def test_the_printed_policy_gives_a_key_to_the_image_and_to_no_other(ledgerd: Ledgerd) -> None:
    ran = ledgerd("kms", "policy", *IMAGE, "--role", ROLE, "--admin", ADMIN)
    assert ran.status == 0
    right = Rig()
    arn = right.kms.create_key(ran.out)
    call = calls.generate_data_key(parse_key_arn(arn), {"purpose": "test"})
    assert isinstance(right.ask(call), DataKey)
    for other in (Rig(kms=right.kms, pcrs={**PCRS, 2: b"\x01" * 48}), Rig(kms=right.kms, debug=True)):
        assert isinstance(other.ask(call), KmsRefusedError)
    assert "they are trusted with it" in ran.err


def test_json_holds_the_same(ledgerd: Ledgerd) -> None:
    plain = ledgerd("kms", "policy", *IMAGE, "--role", ROLE)
    ran = ledgerd("kms", "policy", *IMAGE, "--role", ROLE, "-o", "json")
    assert ran.json == {"schema": "ledgerd.kms_policy.v1", "policy": json.loads(plain.out)}
    assert "nobody may change this policy" in ran.err


def test_measurements_come_from_a_file_too(ledgerd: Ledgerd, tmp_path: Path) -> None:
    file = tmp_path / "measurements.json"
    line = {f"PCR{index}": value.hex() for index, value in PCRS.items()}
    file.write_text(json.dumps({"Measurements": line}))
    ran = ledgerd("kms", "policy", "--measurements", file, "--role", ROLE)
    assert ran.out == ledgerd("kms", "policy", *IMAGE, "--role", ROLE).out
    file.write_text(json.dumps([line, {**line, "PCR0": "b0" * 48, "PCR8": "b8" * 48}]))
    two = json.loads(ledgerd("kms", "policy", "--measurements", file, "--account", "111122223333").out)
    assert [item["Sid"] for item in two["Statement"]][:2] == ["AllowImage1", "AllowImage2"]
    assert two["Statement"][0]["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_an_images_file_is_measured(ledgerd: Ledgerd, tmp_path: Path, signed: bool) -> None:
    sections = (images.KERNEL, images.COMMAND_LINE.encode(), images.PLATFORM, b"our ramdisk")
    expected = {0: images.pcr(*sections), 1: images.pcr(*sections[:3]), 2: images.pcr(sections[3])}
    signature = None
    if signed:
        certificate, key = images.make_signer(ec.SECP384R1())
        signature = sign(expected[0], certificate, key)
        expected[8] = images.pcr(certificate_der(certificate))
    data = eif.write(images.KERNEL, images.COMMAND_LINE, sections[2:], metadata={}, signature=signature)
    (tmp_path / "a.eif").write_bytes(data)
    by_hand = [part for index, value in expected.items() for part in ("--pcr", f"{index}={value.hex()}")]
    ran = ledgerd("kms", "policy", "--image", tmp_path / "a.eif", "--role", ROLE)
    assert (ran.status, ran.out) == (0, ledgerd("kms", "policy", *by_hand, "--role", ROLE).out)
    assert "PCR0 alone" not in ran.err
    two = json.loads(ledgerd("kms", "policy", "--image", tmp_path / "a.eif", *IMAGE, "--role", ROLE).out)
    assert [item["Sid"] for item in two["Statement"]][:2] == ["AllowImage1", "AllowImage2"]


def test_a_file_that_nothing_runs_gets_no_key(ledgerd: Ledgerd, tmp_path: Path) -> None:
    other = sign(b"\x01" * 48, *images.make_signer(ec.SECP384R1()))
    (tmp_path / "a.eif").write_bytes(eif.write(b"kernel", "quiet", [b"a", b"b"], metadata=None, signature=other))
    (tmp_path / "b.eif").write_bytes(b"no image")
    for name, code in (("a.eif", "IntegrityError"), ("b.eif", "EifError")):
        ran = ledgerd("kms", "policy", "--image", tmp_path / name, "--role", ROLE, "-o", "json")
        assert (ran.status, ran.json["error"]["code"]) == (1, code)


def test_a_role_and_an_account_are_one_or_the_other(ledgerd: Ledgerd) -> None:
    ran = ledgerd("kms", "policy", *IMAGE, "--role", ROLE, "--account", "111122223333")
    assert (ran.status, ran.out) == (2, "")
    assert "one or the other" in ran.err


def test_pcr0_alone_is_taken_with_a_warning(ledgerd: Ledgerd) -> None:
    ran = ledgerd("kms", "policy", "--pcr0", PCRS[0].hex(), "--role", ROLE)
    assert ran.status == 0
    assert "PCR0 alone does not fix" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "for an image"),
        (["--pcr0", "00" * 48], "debug"),
        (["--pcr0", "ab"], "is not 48 bytes"),
        (["--pcr0", "ab" * 48, "--pcr", "32=" + "ab" * 48], "0 to 31"),
        (["--pcr0", "ab" * 48, "--pcr", "1"], "is not N=HEX"),
        (["--pcr0", "ab" * 48, "--pcr", "1=ab"], "is not 48 bytes"),
        (["--pcr0", "ab" * 48, "--pcr", "0=" + "cd" * 48], "given twice"),
        (["--pcr", "1=" + "ab" * 48], "PCR0 is missing"),
        (["--pcr0", "ab" * 48, "--admin", "me"], "is not arn:aws:iam"),
    ],
)
def test_misuse_is_told(ledgerd: Ledgerd, arguments: list[str], said: str) -> None:
    ran = ledgerd("kms", "policy", *arguments, "--role", ROLE)
    assert ran.status == 2
    assert said in ran.err
