"""`ledgerd image`: built from stand-ins, told in both forms, and describing what it and others wrote."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.ledger.attestation.measurement import certificate_pcr
from ledgerd.ledger.errors import IntegrityError
from ledgerd.node.image import build as module
from ledgerd.node.image import eif, signature
from ledgerd.node.image.build import Image, ImageSpec, assemble, modules_of
from ledgerd.node.image.lock import Store
from ledgerd.node.image.python import HostTools
from support.command_line import Ledgerd, Ran
from support.images import COMMAND_LINE, KERNEL, PLATFORM, make_signer, parts, with_checksum

Run: TypeAlias = Callable[..., Ran]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with kernel, ramdisk and signer; and stand-ins in place of what would be fetched."""

    def build(spec: ImageSpec, store: Store, say: Callable[[str], None]) -> Image:
        say("standing in")
        return assemble(spec, parts(), modules_of(spec), HostTools())

    monkeypatch.setattr(module, "build", build)
    monkeypatch.chdir(tmp_path)
    certificate, key = make_signer(ec.SECP384R1())
    for name, data in {"bzImage": KERNEL, "init.cpio": PLATFORM, "cert.pem": certificate, "key.pem": key, "cmdline": b"quiet\n"}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


PARTS = ("--kernel", "bzImage", "--ramdisk", "init.cpio", "--cmdline", COMMAND_LINE)
SIGN = ("--cert", "cert.pem", "--key", "key.pem")


def test_what_is_built_is_described_and_measured_alike(ledgerd: Ledgerd, given: Path) -> None:
    built = ledgerd("image", "build", *PARTS, *SIGN, "--out", "a.eif", "-o", "json")
    assert built.status == 0, built.err
    data = (given / "a.eif").read_bytes()
    assert built.json["bytes"] == len(data)
    described = ledgerd("image", "describe", "a.eif", "-o", "json").json
    measured = ledgerd("image", "measure", *PARTS, "--cert", "cert.pem", "-o", "json").json
    for register in ("pcr0", "pcr1", "pcr2", "pcr8"):
        assert built.json[register] == described[register] == measured[register]
    assert described["pcr8"] == certificate_pcr(signature.certificate_der((given / "cert.pem").read_bytes())).hex()
    assert described["signer"]["verified"] is True
    assert [item["type"] for item in described["sections"]] == ["kernel", "command_line", "metadata", "ramdisk", "ramdisk", "signature"]
    assert [item["measured"] for item in described["sections"]] == [True, True, False, True, True, False]
    assert described["unmeasured"]["metadata"]["CustomMetadata"]["Application"] == "ledgerd.apps.logging"
    assert described["command_line"] == COMMAND_LINE
    assert any("measured by nobody" in warning for warning in described["warnings"])


def test_what_lies_beside_the_image_says_what_it_is(ledgerd: Ledgerd, given: Path) -> None:
    fields = ledgerd("image", "build", *PARTS, "--out", "a.eif").fields
    assert json.loads((given / "a.eif.sbom.json").read_text())["bomFormat"] == "CycloneDX"
    registers = json.loads((given / "a.eif.pcrs.json").read_text())
    assert registers == {name: fields[name] for name in ("pcr0", "pcr1", "pcr2")}


def test_the_registers_are_an_allow_list_of_attestation_verify(ledgerd: Ledgerd, given: Path) -> None:
    ledgerd("image", "build", *PARTS, "--out", "a.eif")
    (given / "document").write_bytes(b"\x84")
    ran = ledgerd("attestation", "verify", "document", "--measurements", "a.eif.pcrs.json")
    assert ran.fields["valid"] == "no", "the document is refused, not the list"
    (given / "a.eif.pcrs.json").write_text("{}")
    assert ledgerd("attestation", "verify", "document", "--measurements", "a.eif.pcrs.json").status == 2


def test_people_are_warned_in_words(ledgerd: Ledgerd, given: Path) -> None:
    ledgerd("image", "build", *PARTS, "--out", "a.eif")
    ran = ledgerd("image", "describe", "a.eif")
    assert ran.status == 0
    assert "not signed: PCR8 will be zero" in ran.err
    assert ran.fields["section_3"] == f"ramdisk, {len(PLATFORM)} bytes"


def test_a_kernel_and_a_ramdisk_that_are_none_are_warned_of_and_built(ledgerd: Ledgerd, given: Path) -> None:
    (given / "bzImage").write_bytes(b"garbage")
    built = ledgerd("image", "build", *PARTS, "--out", "a.eif", "-o", "json")
    assert built.status == 0
    assert "no bzImage" in built.json["warnings"][0]
    assert "warning: the kernel is no bzImage" in built.err
    assert "warning: the kernel is no bzImage" in ledgerd("image", "measure", *PARTS).err
    assert "warning: the kernel is no bzImage" in ledgerd("image", "describe", "a.eif").err


def test_the_command_line_comes_from_a_file_too(ledgerd: Ledgerd, given: Path) -> None:
    ledgerd("image", "build", *PARTS[:4], "--cmdline-file", "cmdline", "--out", "a.eif")
    assert eif.read((given / "a.eif").read_bytes()).command_line == "quiet"
    both = ledgerd("image", "measure", *PARTS, "--cmdline-file", "cmdline")
    assert (both.status, both.out) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cert", "cert.pem"), "both, or neither"),
        (("--key", "key.pem"), "both, or neither"),
        (("--cert", "key.pem", "--key", "key.pem"), "signing certificate"),
        (("--app", "no.such.app"), "cannot be found"),
        (("--packages", "cmdline"), r"packages.lock, line 1"),
        (("--wheels", "cmdline"), r"wheels.lock, line 1"),
        (("--packages", "bzImage.bin"), "does not exist"),
    ],
)
def test_misuse_is_told_and_nothing_is_written(ledgerd: Ledgerd, given: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = ledgerd("image", "build", *PARTS, *arguments, "--out", "a.eif")
    assert (ran.status, ran.out) == (2, "")
    assert words in ran.err
    assert not (given / "a.eif").exists()


def test_a_place_that_cannot_be_written_is_told(ledgerd: Ledgerd, given: Path) -> None:
    ran = ledgerd("image", "build", *PARTS, "--out", "no/such/folder/a.eif")
    assert ran.status == 2
    assert "cannot be written" in ran.err


def test_what_was_not_locked_is_a_failure_of_its_own(ledgerd: Ledgerd, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: Any) -> Image:
        raise IntegrityError("thing 1 was fetched, but no file has its SHA-256")

    monkeypatch.setattr(module, "build", build)
    ran = ledgerd("image", "build", *PARTS, "--out", "a.eif", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "IntegrityError")


def test_a_file_that_is_no_image_is_refused_by_its_rule(ledgerd: Ledgerd, given: Path) -> None:
    ran = ledgerd("image", "describe", "bzImage", "-o", "json")
    assert ran.status == 1
    assert ran.json["error"]["code"] == "EifError"
    assert "by rule 'header'" in ran.json["error"]["message"]


def test_what_is_no_file_is_not_read_without_end(ledgerd: Ledgerd) -> None:
    ran = ledgerd("image", "describe", "/dev/zero")
    assert ran.status == 1
    assert "not a regular file" in ran.err


def test_a_signed_image_with_another_ramdisk_does_not_verify(ledgerd: Ledgerd, given: Path) -> None:
    ledgerd("image", "build", *PARTS, *SIGN, "--out", "a.eif")
    data = (given / "a.eif").read_bytes()
    (given / "b.eif").write_bytes(with_checksum(data.replace(PLATFORM, PLATFORM[::-1])))
    ran = ledgerd("image", "describe", "b.eif", "-o", "json")
    assert ran.status == 1
    assert ran.json["signer"]["verified"] is False
    assert any("not this image's PCR0" in warning for warning in ran.json["warnings"])


def test_an_image_of_the_platform_alone_and_odd_headers_are_warned_of(ledgerd: Ledgerd, given: Path) -> None:
    data = bytearray(eif.write(KERNEL, "quiet", [PLATFORM], metadata=None))
    data[25] = 1  # the reserved field
    (given / "a.eif").write_bytes(with_checksum(bytes(data)))
    warnings = ledgerd("image", "describe", "a.eif", "-o", "json").json["warnings"]
    assert any("one ramdisk only" in warning for warning in warnings)
    assert any("reserved header fields" in warning for warning in warnings)


def test_what_strangers_write_cannot_forge_lines(ledgerd: Ledgerd, given: Path) -> None:
    (given / "a.eif").write_bytes(eif.write(KERNEL, "quiet", [PLATFORM], metadata={"ImageName": "x\npcr0\t00"}))
    lines = ledgerd("image", "describe", "a.eif").out.splitlines()
    assert len([line for line in lines if line.startswith("pcr0\t")]) == 1


def test_a_certificate_whose_name_cannot_be_read_is_refused_as_all_else(ledgerd: Ledgerd, given: Path) -> None:
    """The library reads names when they are asked for; found by fuzzing."""
    certificate = x509.load_pem_x509_certificate((given / "cert.pem").read_bytes()).public_bytes(serialization.Encoding.DER)
    strange = certificate.replace(b"\x0c\x06signer", b"\x03\x06\0igner")  # a bit string in place of text
    assert strange != certificate
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(strange) + b"-----END CERTIFICATE-----\n"
    signed = cbor2.loads(signature.sign(bytes(48), (given / "cert.pem").read_bytes(), (given / "key.pem").read_bytes()))
    section = cbor2.dumps([{**signed[0], "signing_certificate": list(pem)}])
    (given / "a.eif").write_bytes(eif.write(KERNEL, "quiet", [PLATFORM], metadata=None, signature=section))
    ran = ledgerd("image", "describe", "a.eif", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "EifError")
    assert "its certificate cannot be read" in ran.json["error"]["message"]


def test_a_certificate_out_of_its_time_is_warned_of(given: Path) -> None:
    from datetime import UTC, datetime

    from ledgerd.node.image.describe import describe

    signed = signature.sign(bytes(48), (given / "cert.pem").read_bytes(), (given / "key.pem").read_bytes())
    image = eif.read(eif.write(KERNEL, "quiet", [PLATFORM], metadata=None, signature=signed))
    fields, warnings = describe(image, datetime(2050, 1, 1, tzinfo=UTC))
    assert any("is valid from 2026-01-01 to 2035-12-30 only" in warning for warning in warnings)
    assert fields["signer"]["subject"] == "CN=signer"
