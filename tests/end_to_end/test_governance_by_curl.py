"""A consortium's story with other people's programs alone: curl, jq, openssl and CCF's signers, as docs/examples/govern.sh shows it.

What the script does it reads back itself, through `GET /gov`. What is looked at here besides: that nodes and ledger agree with what was
read, and that nothing of ledgerd's own took part as a client.
"""

import subprocess
from pathlib import Path

import pytest

from ledgerd.governance import tables
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from support.ccf_tools import environment
from support.command_line import run
from support.repository import ROOT
from support.voting_service import VotingService

SCRIPT = ROOT / "docs" / "examples" / "govern.sh"


@pytest.mark.timeout(1200)
def test_three_members_govern_from_the_first_minute_on(tmp_path: Path) -> None:
    tools = environment("curl", "jq", "openssl", "xxd")
    with VotingService(tmp_path) as service:
        command = [str(SCRIPT), str(tmp_path), service.nodes[0].url]
        ran = subprocess.run(command, capture_output=True, text=True, env=tools, timeout=600, check=False)
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
        first, *others = service.nodes
        retired = [node for node in others if (node.directory / "retired").exists()]
        assert len(retired) == 1
        entries = first.entries()
        auditor = Auditor(service.certificate.read_text())
        states: dict[bytes, list[str]] = {}
        for data in entries:
            auditor.feed(data)
            for key, value in read_public(data).writes.get(tables.PROPOSALS_INFO, {}).items():
                if value is not None:
                    states.setdefault(key, []).append(tables.decode(value)["state"])
        assert auditor.result().last_signed == auditor.result().last_transaction_id
        # Every proposal was open in one entry and decided in a later one, and all that were made are told of in the script's words.
        assert [found[0] for found in states.values()] == ["Open"] * len(states)
        assert [found[-1] for found in states.values()].count("Rejected") == 1
        assert all(found[-1] in ("Accepted", "Rejected") for found in states.values())
        # And whoever has the exported ledger and the certificate, and nothing else, finds that all of it follows.
        assert run("ledger", "export", first.directory, tmp_path / "exported").status == 0
        audited = run("gov", "audit", tmp_path / "exported", "--service-cert", service.certificate, "-o", "json")
        assert (audited.status, audited.json["verdict"]) == (0, "FOLLOWS"), audited.out
        assert audited.json["proposals"] == len(states)
        told = {step["proposal_id"]: step["state"] for step in audited.json["steps"] if step["kind"] in ("proposal", "ballot")}
        assert told == {key.decode(): found[-1] for key, found in states.items()}
