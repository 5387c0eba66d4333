"""`ledgerd ledger verify` of a ledger that a service of attested nodes wrote: what it says of the nodes."""

import json
from functools import cache
from pathlib import Path

import pytest

from ledgerd.apps.logging import app
from ledgerd.ledger.chunks import Chunker
from ledgerd.node.cli import node_findings
from support.cluster import PCRS, Cluster
from support.command_line import Ledgerd
from support.vectors import vectors

AWS = "aws_nitro_root_g1.pem"


@cache
def written() -> tuple[tuple[bytes, ...], str, str]:
    """Entries, the service's certificate, the simulated root."""
    cluster = Cluster(app)
    first, _ = cluster.start(2)
    cluster.until(lambda: first.committed >= len(first.entries) > 4)
    return tuple(first.entries), first.notices["service_certificate"], cluster.root.certificate_pem


@pytest.fixture
def verify(tmp_path: Path) -> list[object]:
    entries, certificate, root = written()
    (tmp_path / "ledger").mkdir()
    chunker = Chunker(len(entries), chunk_size=1)
    chunks = [chunk for entry in entries for chunk in chunker.add(entry)]
    for chunk in [*chunks, *filter(None, [chunker.finish()])]:
        (tmp_path / "ledger" / str(chunk.name)).write_bytes(chunk.data)
    (tmp_path / "service_cert.pem").write_text(certificate)
    (tmp_path / "root.pem").write_text(root)
    return ["ledger", "verify", tmp_path / "ledger", "--service-cert", tmp_path / "service_cert.pem"]


def test_nodes_are_verified_and_what_was_not_checked_is_said(ledgerd: Ledgerd, verify: list[object]) -> None:
    ran = ledgerd(*verify)
    assert (ran.status, ran.fields["verdict"]) == (0, "VERIFIED")
    assert ran.fields["nodes"] == "evidence of 2 of 2 verified, as of when it was recorded; SIMULATED: 2"
    assert "Checked of the nodes: chain, image, key, configuration, encryption key (of 1). Not checked: nonces" in ran.err
    assert "SIMULATED: a node was attested by a root that is neither" in ran.err
    nodes = ledgerd(*verify, "-o", "json").json["nodes"]
    assert [node["verdict"] for node in nodes] == ["VERIFIED", "VERIFIED"]
    assert nodes[1]["checked"] == ["chain", "image", "key", "configuration", "encryption_key"]
    assert {node["code_digest"] for node in nodes} == {PCRS[0].hex()}


def test_roots_and_images_of_the_auditors_own_count_in_place_of_the_ledgers(ledgerd: Ledgerd, verify: list[object], tmp_path: Path) -> None:
    images = tmp_path / "images.json"
    images.write_text(json.dumps({f"pcr{index}": value.hex() for index, value in PCRS.items()}))
    assert ledgerd(*verify, "--root", tmp_path / "root.pem", "--measurements", images).status == 0
    images.write_text(json.dumps({f"pcr{index}": "ab" * 48 for index in PCRS}))
    ran = ledgerd(*verify, "--measurements", images)
    assert (ran.status, ran.fields["verdict"]) == (1, "REFUSED")
    assert "recorded in entry 1: attestation refused by rule 'measurement'" in ran.fields["reason"]
    assert ran.fields["good_up_to"] == ran.fields["last_signed"]
    assert "0 of 2 verified" in ran.fields["nodes"] and "2 refused" in ran.fields["nodes"]
    ran = ledgerd(*verify, "--root", vectors("nitro", AWS), "-o", "json")
    assert (ran.status, ran.json["verdict"]) == (1, "REFUSED")
    assert {"rule 'root'" in node["reason"] for node in ran.json["nodes"]} == {True}
    assert ledgerd(*verify, "--root", images).status == 2


@pytest.mark.parametrize("name", ["cose_flipflop_service", "double_sealed_service"])
def test_evidence_that_nobody_here_judges_is_told_and_refuses_nothing(ledgerd: Ledgerd, name: str) -> None:
    folder = vectors("ccf-ledgers", name)
    ran = ledgerd("ledger", "verify", folder, "--service-cert", folder / "service_cert.pem")
    assert (ran.status, ran.fields["verdict"]) == (0, "VERIFIED")
    assert "0 of" in ran.fields["nodes"] and "unchecked" in ran.fields["nodes"]
    assert "unchecked: nobody here judges evidence of format" in ran.err or "unchecked: the ledger records no evidence" in ran.err
    assert "Checked of the nodes" not in ran.err
    demanding = ledgerd("ledger", "verify", folder, "--service-cert", folder / "service_cert.pem", "--root", vectors("nitro", AWS))
    assert (demanding.status, demanding.fields["verdict"]) == (1, "REFUSED")


def test_many_nodes_that_cannot_be_judged_do_not_fill_the_screen() -> None:
    from ledgerd.governance.attested_nodes import UNCHECKED, NodeFinding

    findings = [NodeFinding(f"{number:064x}", number, UNCHECKED, "so") for number in range(100)]
    notes = node_findings.notes(findings)
    assert len(notes) == node_findings.SHOWN_MAX + 1
    assert notes[-1].startswith("and 80 more")
