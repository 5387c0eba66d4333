"""`ledgerd attestation verify` on evidence in files and at addresses: genuine, forged, and explained to a person."""

import base64
import json
from datetime import timedelta
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

import cbor2
import pytest

from support import documents, reports
from support.command_line import Ledgerd
from support.documents import IMAGE, LEAF, MADE_AT_MS, MODULE_ID, NONCE, forge
from support.reports import forge_report, forge_uvm
from support.vectors import vectors

FORGED = forge()
DEBUG = forge(pcrs={0: bytes(48), 1: bytes(48), 2: bytes(48)})


@pytest.fixture
def stored(tmp_path: Path) -> list[Any]:
    """Arguments that verify a correct document."""
    return arguments(tmp_path, FORGED)


def arguments(folder: Path, forged: documents.Forged) -> list[Any]:
    (folder / "document").write_bytes(forged.document)
    (folder / "root.pem").write_text(forged.root_pem)
    return ["attestation", "verify", folder / "document", "--root", folder / "root.pem", "--at", MADE_AT_MS, "-o", "json"]


def manifest() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(vectors("nitro", "manifest.json").read_text())["documents"]
    return entries


# Genuine documents, by AWS's root, which is built in.


def test_every_genuine_document_is_judged_as_the_manifest_says(ledgerd: Ledgerd) -> None:
    for entry in manifest():
        file = vectors("nitro", entry["file"])
        at = [] if entry.get("verify_at_ms") is None else ["--at", entry["verify_at_ms"]]
        ran = ledgerd("attestation", "verify", file, *at, "-o", "json")
        valid = entry["expect"] == "valid" and not entry["debug"]
        assert (ran.status, ran.json["valid"]) == ((0, True) if valid else (1, False)), entry["file"]
        if entry["expect"] == "valid":
            said = ran.json
            assert (said["debug"], said["module_id"]) == (entry["debug"], entry["module_id"])
            assert said["timestamp_ms"] == entry["verify_at_ms"]
            assert {index: said["pcrs"][index] for index in entry["pcrs"] if index != "_indices"} == {
                index: value for index, value in entry["pcrs"].items() if index != "_indices"
            }
        if entry["expect"] == "valid" and entry["debug"]:
            assert ran.json["error"]["code"] == "debug"
            assert "debug" in ran.json["error"]["message"]
            allowed = ledgerd("attestation", "verify", file, "--at", entry["verify_at_ms"], "--allow-debug", "-o", "json")
            assert (allowed.status, allowed.json["valid"], allowed.json["debug"]) == (0, True, True)
            assert "DEBUG" in allowed.err


def test_an_expired_genuine_document_is_refused_and_the_message_tells_of_at(ledgerd: Ledgerd) -> None:
    entry = next(entry for entry in manifest() if entry["expect"] == "valid")
    file = vectors("nitro", entry["file"])
    ran = ledgerd("attestation", "verify", file, "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "validity")
    assert f"--at {entry['verify_at_ms']}" in ran.json["error"]["message"]
    assert "--at" in ledgerd("attestation", "verify", file).fields["advice"]
    late = ledgerd("attestation", "verify", file, "--at", entry["verify_at_ms"] + 86_400_000, "-o", "json")
    assert late.json["error"]["code"] == "validity"
    assert "--at" not in late.json["error"]["message"]


# What a person is told.


def test_a_person_is_told_whose_image_it_is_where_it_runs_and_how_old_it_is(ledgerd: Ledgerd, tmp_path: Path) -> None:
    forged = forge(pcrs={3: b"\xaa" * 48, 8: b"\xbb" * 48})
    ran = ledgerd(*arguments(tmp_path, forged)[:-4], "--at", MADE_AT_MS + 2 * 3_600_000 + 60_000)
    fields = ran.fields
    assert (ran.status, fields["valid"], fields["mode"]) == (0, "yes", "production")
    assert IMAGE.pcr0.hex() in fields["image"]
    assert "bb" * 48 in fields["image"]
    assert (fields["instance"], fields["enclave"]) == (documents.INSTANCE_ID, MODULE_ID)
    assert "aa" * 48 in fields["role"]
    assert fields["made"].startswith("2026-05-28T")
    assert "2 hours 1 minute before" in fields["made"]
    assert "SIMULATED" in fields["root"]
    assert "SIMULATED" in ran.err


def test_a_person_is_told_of_a_debug_enclave_and_an_instance_without_role(ledgerd: Ledgerd, tmp_path: Path) -> None:
    ran = ledgerd(*arguments(tmp_path, DEBUG)[:-2])
    assert (ran.status, ran.fields["valid"], ran.fields["rule"], ran.fields["role"]) == (1, "no", "debug", "none")
    assert "DEBUG" in ran.fields["mode"]
    assert "not known" in ran.fields["image"]
    assert "not proven" in ran.err


# Rules and options.


def test_every_register_that_is_stated_must_be_right(ledgerd: Ledgerd, stored: list[Any]) -> None:
    right = ["--pcr", f"0={IMAGE.pcr0.hex()}", "--pcr", f"2={IMAGE.pcr2.hex().upper()}", "--pcr", f"3={'00' * 48}"]
    assert ledgerd(*stored, *right).status == 0
    for wrong in (f"1={'00' * 48}", f"4={'11' * 48}", f"16={'00' * 48}"):
        ran = ledgerd(*stored, *right, "--pcr", wrong)
        assert (ran.status, ran.json["error"]["code"]) == (1, "measurement")


def test_the_role_that_is_stated_must_be_the_instances(ledgerd: Ledgerd, tmp_path: Path) -> None:
    role = "arn:aws:iam::111122223333:role/ledgerd-node"
    verify = arguments(tmp_path, forge(pcrs={3: sha384(bytes(48) + role.encode()).digest()}))
    assert ledgerd(*verify, "--role", role).status == 0
    ran = ledgerd(*verify, "--role", f"{role}2")
    assert (ran.status, ran.json["error"]["code"]) == (1, "measurement")
    for wrong in (["--role", "ledgerd-node"], ["--role", role, "--pcr", f"3={'00' * 48}"]):
        assert ledgerd(*verify, *wrong).status == 2


def test_a_person_is_told_that_any_image_was_accepted_unless_one_was_demanded(ledgerd: Ledgerd, stored: list[Any], tmp_path: Path) -> None:
    registers = [["--pcr", f"{index}={value.hex()}"] for index, value in enumerate((IMAGE.pcr0, IMAGE.pcr1, IMAGE.pcr2))]
    images = tmp_path / "images.json"
    images.write_text(json.dumps({f"PCR{index}": value.hex() for index, value in enumerate((IMAGE.pcr0, IMAGE.pcr1, IMAGE.pcr2))}))
    anything = "any: none was demanded, so this proves only who signed it"
    for options, checked, told in (
        ([], False, anything),
        (["--pcr", f"3={'00' * 48}"], False, anything),
        ([*registers[0], *registers[2]], False, "any with this PCR0, this PCR2"),
        ([part for register in registers for part in register], True, "as was demanded"),
        (["--measurements", images], True, "as was demanded"),
    ):
        assert ledgerd(*stored, *options).json["measurement_checked"] is checked
        assert ledgerd(*stored[:-2], *options).fields["accepted_image"] == told


def test_the_nonce_that_is_stated_must_be_right(ledgerd: Ledgerd, stored: list[Any]) -> None:
    assert ledgerd(*stored, "--nonce", NONCE.hex()).status == 0
    ran = ledgerd(*stored, "--nonce", "00" * 32)
    assert (ran.status, ran.json["error"]["code"]) == (1, "nonce")


def test_seconds_in_place_of_milliseconds_are_asked_after(ledgerd: Ledgerd, stored: list[Any]) -> None:
    ran = ledgerd(*stored, "--at", MADE_AT_MS // 1000)
    assert (ran.status, ran.json["error"]["code"]) == (1, "validity")
    assert f"did you give seconds? Then give --at {MADE_AT_MS // 1000 * 1000}" in ran.json["error"]["advice"]


def test_a_list_of_images_is_compared(ledgerd: Ledgerd, stored: list[Any], tmp_path: Path) -> None:
    images = tmp_path / "images.json"
    images.write_text(json.dumps({f"PCR{index}": value.hex() for index, value in enumerate((IMAGE.pcr0, IMAGE.pcr1, IMAGE.pcr2))}))
    assert ledgerd(*stored, "--measurements", images).status == 0
    images.write_text(json.dumps([{f"pcr{index}": "11" * 48 for index in range(3)}]))
    assert ledgerd(*stored, "--measurements", images).json["error"]["code"] == "measurement"


@pytest.mark.parametrize(
    ("forged", "expected"),
    [
        (forge(shapes={LEAF: {"lifetime": timedelta(seconds=1)}}), "validity"),
        (forge(shapes={LEAF: {"foreign_issuer": True}}), "chain"),
        (forge(change={"module_id": "i-0fedcba9876543210-enc01"}), "module"),
        (forge(change={"nonce": 1}), "form"),
        (forge(change={"timestamp": MADE_AT_MS + 120_000}), "age"),
        (forge(payload=lambda fields: b"junk"), "form"),
    ],
)
def test_the_rule_that_fails_is_named(ledgerd: Ledgerd, tmp_path: Path, forged: documents.Forged, expected: str) -> None:
    ran = ledgerd(*arguments(tmp_path, forged))
    assert (ran.status, ran.json["valid"], ran.json["error"]["code"]) == (1, False, expected)
    assert ran.json["schema"] == "ledgerd.attestation_verify.v1"
    assert all(ran.json["error"][name] for name in ("message", "seen", "expected", "advice"))


def test_without_a_root_only_awss_counts(ledgerd: Ledgerd, stored: list[Any]) -> None:
    ran = ledgerd(*stored[:3], *stored[5:])
    assert (ran.status, ran.json["error"]["code"]) == (1, "root")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--pcr", "0"],
        ["--pcr", "0=zz"],
        ["--pcr", "32=" + "00" * 48],
        ["--pcr", "-1=" + "00" * 48],
        ["--pcr", "0=" + "00" * 47],
        ["--pcr", "0=" + "00" * 48, "--pcr", "0=" + "00" * 48],
        ["--nonce", "xyz"],
        ["--nonce", ""],
        ["--at", "now"],
        ["--at", "-1"],
        ["--at", "1" * 15],
        ["--save", "certificate"],
        ["--genesis", "00" * 32],
        ["--root", __file__],
        ["--root", "/nonexistent"],
        ["--measurements", __file__],
        ["--security-policy", __file__],
    ],
)
def test_misuse_is_status_2(ledgerd: Ledgerd, stored: list[Any], wrong: list[str]) -> None:
    ran = ledgerd(*stored[:-2], *wrong)
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err


@pytest.mark.parametrize(
    "target",
    [
        ["/nonexistent"],
        ["https://127.0.0.1:1", "--nonce", "00"],
        ["https://127.0.0.1:1", "--save", "certificate"],
        [],
        ["--url", "https://x:1"],
        ["--url", "https://x:1", "--nonce", "00" * 32],
        ["https://"],
        ["http://:80/document"],
        ["https://[::1/document"],
        ["https://127.0.0.1:99999/document"],
        ["https://127.0.0.1:port"],
    ],
)
def test_targets_that_cannot_be_judged_so_are_status_2(ledgerd: Ledgerd, target: list[str]) -> None:
    ran = ledgerd("attestation", "verify", *target)
    assert ran.status == 2
    assert ran.err.startswith("ledgerd: ")


@pytest.mark.parametrize(
    "target",
    [
        ["https://127.0.0.1:1"],
        ["http://127.0.0.1:1/document"],
        ["https://127.0.0.1:1/a?b"],
        ["https://127.0.0.1:1", "--nonce", "00" * 16, "--at", "1", "--allow-debug", "--pcr", "0=" + "00" * 48],
    ],
)
def test_an_address_that_does_not_answer_is_status_1(ledgerd: Ledgerd, target: list[str]) -> None:
    ran = ledgerd("attestation", "verify", *target, "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "Unanswered")


@pytest.mark.parametrize("data", [b"", b"junk!", b"{", b'{"raw": 1}', b'{"raw": "*"}', b"[]", bytes(2_000_000), b"{" * 100_000])
def test_what_is_no_evidence_is_a_failure(ledgerd: Ledgerd, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    ran = ledgerd("attestation", "verify", tmp_path / "file", "-o", "json")
    assert ran.status == 1
    assert (ran.json["valid"], ran.json["format"]) == (False, None)
    assert [ran.json[name] for name in ("debug", "module_id", "timestamp_ms", "pcrs")] == [None] * 4
    assert ran.json["error"]["code"] in ("size", "form")
    assert ledgerd("attestation", "show", tmp_path / "file").status == 1


RECEIPT = cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps({1: -35, 4: b"00", 15: {1: "issuer"}, 395: 2}), {}, None, bytes(96)]))
CERTIFICATE = base64.b64decode("".join(FORGED.root_pem.splitlines()[1:-1]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b".eif" + bytes(2_000), "ledgerd image describe"),
        (FORGED.root_pem.encode(), "--root takes a root"),
        (CERTIFICATE, "--root takes a root"),
        (b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n", "ec private key"),
        (RECEIPT, "ledgerd receipt verify"),
        (RECEIPT[1:], "ledgerd receipt verify"),
        (b'{"leaf_components": {}, "signature": ""}', "ledgerd receipt verify"),
        (forge_uvm()[0], "--uvm-endorsement"),
        (b'{"pcr0": "00"}', "--measurements"),
        (b'{"error": {"code": "ServiceNotReady"}}', "something went wrong"),
        (b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "JSON web token"),
        (bytes.fromhex("308006092a864886f70d010703a080") + bytes(500), "KMS"),
        (bytes.fromhex("0300020000000000") + bytes(5_000), "SGX"),
        (bytes.fromhex("0400020081000000") + bytes(5_000), "TDX"),
        (b"HCLA" + bytes(2_000), "byte 32"),
        (forge_report().report + b"\n", "1,184"),
        (bytes(32) + forge_report().report + bytes(100), "tail -c +33"),
        (b"<!doctype html><html></html>", "page"),
        (b"PK\x03\x04" + bytes(100), "ZIP"),
    ],
)
def test_what_another_reader_is_for_is_said(ledgerd: Ledgerd, tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(data)
    ran = ledgerd("attestation", "verify", tmp_path / "file", "-o", "json")
    assert (ran.status, ran.json["valid"], ran.json["format"]) == (1, False, None)
    assert words in ran.json["error"]["advice"]
    assert words in ran.json["error"]["message"]
    shown = ledgerd("attestation", "show", tmp_path / "file")
    assert shown.status == 1
    assert words in shown.err


def test_a_folder_is_misuse_and_its_reader_is_named(ledgerd: Ledgerd, tmp_path: Path) -> None:
    ran = ledgerd("attestation", "verify", tmp_path)
    assert ran.status == 2
    assert "ledgerd ledger verify" in ran.err


def test_an_answer_in_another_format_is_refused_by_that(ledgerd: Ledgerd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(json.dumps({"format": "Insecure_Virtual", "raw": ""}))
    ran = ledgerd("attestation", "verify", tmp_path / "file", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "format")


@pytest.mark.parametrize("form", ["binary", "base64", "lines", "base64url", "unpadded", "hex", "HEX", "0x", "answer"])
def test_evidence_is_found_in_every_usual_form(ledgerd: Ledgerd, tmp_path: Path, stored: list[Any], form: str) -> None:
    for verify in (stored, report_arguments(tmp_path)):
        evidence = verify[2].read_bytes()
        text = {
            "binary": evidence,
            "base64": base64.b64encode(evidence),
            "lines": base64.encodebytes(evidence),
            "base64url": base64.urlsafe_b64encode(evidence),
            "unpadded": base64.urlsafe_b64encode(evidence).rstrip(b"=") + b"\n",
            "hex": evidence.hex().encode() + b"\n",
            "0x": b"0x" + evidence.hex().encode(),
            "HEX": evidence.hex(" ", 32).upper().encode(),
            "answer": json.dumps({"raw": base64.b64encode(evidence).decode()}).encode(),
        }[form]
        verify[2].write_bytes(text)
        assert ledgerd(*verify).json["valid"] is True


# SNP.


def report_arguments(folder: Path, **arguments: Any) -> list[Any]:
    forged = forge_report(**arguments)
    (folder / "report").write_bytes(forged.report)
    for name, der in zip(("leaf.der", "ask.pem", "ark.pem"), forged.ders, strict=True):
        (folder / name).write_bytes(der if name.endswith("der") else reports.pem(der))
    certificates = [part for name in ("ark.pem", "leaf.der", "ask.pem") for part in ("--endorsements", folder / name)]
    return ["attestation", "verify", folder / "report", "--root", folder / "ark.pem", "--at", reports.NOW_MS, *certificates, "-o", "json"]


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_an_snp_report_is_verified_with_its_certificates_in_any_order(ledgerd: Ledgerd, tmp_path: Path, product: str) -> None:
    ran = ledgerd(*report_arguments(tmp_path, product=product))
    assert (ran.status, ran.json["valid"], ran.json["product"]) == (0, True, product)
    assert ran.json["measurement"] == reports.MEASUREMENT.hex()
    assert ran.json["simulated"]


def test_certificates_that_are_not_needed_do_no_harm_and_a_root_may_come_as_root(ledgerd: Ledgerd, tmp_path: Path) -> None:
    verify = report_arguments(tmp_path)
    for number, der in enumerate(forge_report(product="Genoa").ders[1:]):
        (tmp_path / f"other{number}").write_bytes(der)
        verify += ["--endorsements", tmp_path / f"other{number}"]
    assert ledgerd(*verify).json["valid"] is True
    (tmp_path / "leaf and ask").write_bytes(reports.pem((tmp_path / "leaf.der").read_bytes()) + (tmp_path / "ask.pem").read_bytes())
    verify = [*verify[:7], "--endorsements", tmp_path / "leaf and ask", "-o", "json"]
    assert ledgerd(*verify).json["valid"] is True


def test_certificates_may_come_as_azures_containers_find_them(ledgerd: Ledgerd, tmp_path: Path) -> None:
    verify = report_arguments(tmp_path)[:7]
    leaf = reports.pem((tmp_path / "leaf.der").read_bytes())
    chain = (tmp_path / "ask.pem").read_bytes() + (tmp_path / "ark.pem").read_bytes()
    host = {"cacheControl": "86400", "vcekCert": leaf.decode(), "certificateChain": chain.decode(), "tcbm": "DB18000000000004"}
    for data in (json.dumps(host).encode(), base64.b64encode(json.dumps(host).encode())):
        (tmp_path / "host").write_bytes(data)
        assert ledgerd(*verify, "--endorsements", tmp_path / "host", "-o", "json").json["valid"] is True


def test_where_amd_gives_the_certificates_of_a_report_is_said(ledgerd: Ledgerd, tmp_path: Path) -> None:
    for product in ("Milan", "Turin"):
        verify = report_arguments(tmp_path, product=product)
        chip = forge_report(product=product).report[0x1A0 : 0x1A8 if product == "Turin" else 0x1E0].hex()
        ran = ledgerd(*verify[:3], "-o", "json")
        assert ran.json["error"]["code"] == "form"
        assert f"/vcek/v1/{product}/{chip}?{'fmc' if product == 'Turin' else 'bl'}SPL=" in ran.json["error"]["advice"]
        assert f"/vcek/v1/{product}/cert_chain" in ran.json["error"]["advice"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"policy": 1 << 19}, "debug"), ({"policy": 1 << 18}, "migration"), ({"vmpl": 4}, "vmpl"), ({"tcb": bytes(8)}, "tcb")],
)
def test_the_rule_that_an_snp_report_breaks_is_named(ledgerd: Ledgerd, tmp_path: Path, arguments: dict[str, Any], expected: str) -> None:
    ran = ledgerd(*report_arguments(tmp_path, **arguments))
    assert (ran.status, ran.json["error"]["code"]) == (1, expected)
    allowed = ledgerd(*report_arguments(tmp_path, **arguments), "--allow-debug")
    assert (allowed.status == 0) == (expected == "debug")


def test_options_for_snp_are_compared(ledgerd: Ledgerd, tmp_path: Path) -> None:
    (tmp_path / "policy").write_bytes(b"package policy")
    message, did = forge_uvm()
    (tmp_path / "uvm").write_bytes(base64.encodebytes(message))
    (tmp_path / "foreign").write_bytes(forge_uvm(measurement="b1" * 48)[0])
    verify = report_arguments(tmp_path, report_data=NONCE + bytes(32))
    ran = ledgerd(*verify, "--security-policy", tmp_path / "policy", "--uvm-endorsement", tmp_path / "uvm", "--nonce", NONCE.hex())
    assert ran.status == 0
    assert ran.json["uvm_endorsement"] == {"did": did, "feed": reports.FEED, "svn": 22}
    assert ran.json["measurement_checked"] is True
    for options in ([], ["--security-policy", tmp_path / "policy"], ["--uvm-endorsement", tmp_path / "uvm"]):
        assert ledgerd(*verify, *options).json["measurement_checked"] is False
        assert ledgerd(*verify[:-2], *options).fields["accepted_image"].startswith("any: ")
    for option, value, expected in (
        ("--security-policy", __file__, "host_data"),
        ("--uvm-endorsement", tmp_path / "foreign", "endorsement"),
        ("--nonce", "00", "nonce"),
    ):
        assert ledgerd(*verify, option, value).json["error"]["code"] == expected
    assert ledgerd(*verify, "--pcr", f"0={'00' * 48}").status == 2
    assert ledgerd(*verify, "--endorsements", __file__).status == 2
    assert ledgerd(*report_arguments(tmp_path)[:-2], "--root", tmp_path / "ask.pem").status == 2


def test_an_expired_snp_report_tells_of_at(ledgerd: Ledgerd, tmp_path: Path) -> None:
    verify = report_arguments(tmp_path, leaf={"lifetime": timedelta(days=101)})
    assert ledgerd(*verify).status == 0
    at = verify.index("--at")
    ran = ledgerd(*verify[:at], *verify[at + 2 :])
    assert (ran.status, ran.json["error"]["code"]) == (1, "validity")
    assert "--at EPOCH_MS" in ran.json["error"]["message"]


def test_genuine_snp_reports_are_judged_by_amds_roots(ledgerd: Ledgerd, tmp_path: Path) -> None:
    for entry in json.loads(vectors("snp", "manifest.json").read_text())["reports"]:
        files = [vectors("snp", f"{name}.pem") for name in (f"ark_{entry['gen']}", f"{entry['name']}_leaf", f"ask_{entry['gen']}")]
        options = [part for file in files for part in ("--endorsements", file)]
        report = vectors("snp", f"{entry['name']}_report.bin")
        ran = ledgerd("attestation", "verify", report, "--at", 1_772_000_000_000, *options, "-o", "json")
        assert (ran.status, ran.json["valid"]) == ((0, True) if entry["chain_ok"] else (1, False)), entry["name"]
        if entry["chain_ok"]:
            assert (ran.json["simulated"], ran.json["chip_id"]) == (False, entry["chip_id"])
            answer = {
                "format": "AMD_SEV_SNP_v1",
                "raw": base64.b64encode(report.read_bytes()).decode(),
                "endorsements": base64.b64encode(b"".join(files[at].read_bytes() for at in (1, 2, 0))).decode(),
            }
            (tmp_path / "answer").write_text(json.dumps(answer))
            assert ledgerd("attestation", "verify", tmp_path / "answer", "--at", 1_772_000_000_000).fields["valid"] == "yes"
    aci = ["azure_aci_uvm_reference_info.cose", "azure_aci_security_policy.txt"]
    files = [vectors("snp", f"{name}.pem") for name in ("azure_aci_milan_leaf", "ask_milan", "ark_milan")]
    ran = ledgerd(
        *("attestation", "verify", vectors("snp", "azure_aci_milan_report.bin"), "--at", 1_772_000_000_000, "-o", "json"),
        *(part for file in files for part in ("--endorsements", file)),
        *("--uvm-endorsement", vectors("snp", aci[0]), "--security-policy", vectors("snp", aci[1])),
    )
    assert (ran.status, ran.json["uvm_endorsement"]["feed"]) == (0, "ContainerPlat-AMD-UVM")
    assert ran.json["host_data"] == sha256(vectors("snp", aci[1]).read_bytes()).hexdigest()


def test_an_snp_report_is_shown(ledgerd: Ledgerd, tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(forge_report(policy=1 << 19).report)
    shown = ledgerd("attestation", "show", tmp_path / "report", "-o", "json").json
    assert (shown["verified"], shown["debug"], shown["measurement"]) == (False, True, reports.MEASUREMENT.hex())
