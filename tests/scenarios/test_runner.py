"""`scripts/scenario`: what it says and how it ends; and what the driver refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.consensus.messages import AppendEntries
from ledgerd.ledger.ids import NodeId
from support.repository import ROOT
from support.scenarios.runner import run

START = "start_node,0\nemit_signature,2\n"
THREE = START + "trust_nodes,2,1,2\nloop_until_sync\n"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "scenario"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def written(folder: Path, text: str, name: str = "file") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_files_that_hold_end_with_0_and_nothing_on_stderr(tmp_path: Path) -> None:
    one, two = written(tmp_path, START, "one"), written(tmp_path, THREE, "two")
    ended = call(str(one), str(two))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == f"ok {one}: 2 commands, 0 messages"
    assert "wins view 2" in call("--verbose", str(one)).stdout


def test_a_failure_says_where_what_was_expected_and_how_everybody_stands(tmp_path: Path) -> None:
    path, other = written(tmp_path, THREE + "# wrong\nassert_commit_idx,1,5\n"), written(tmp_path, START, "other")
    ended = call(str(path), str(other))
    assert (ended.returncode, ended.stderr) == (1, "")
    lines = ended.stdout.splitlines()
    assert "    3  trust_nodes,2,1,2" in lines, "the transcript"
    start = lines.index(f"FAILED {path}:6: assert_commit_idx,1,5")
    assert lines[start + 1 : start + 8] == [
        "    expected: 1 at commit 5",
        "    seen:     4",
        "    nodes:",
        "        0: Leader view=2 last=2.4 stored=4 commit=2.4 signed=- active={0 1 2}",
        "        1: Follower view=2 last=2.4 stored=4 commit=2.4 signed=- active={0 1 2}",
        "        2: Follower view=2 last=2.4 stored=4 commit=2.4 signed=- active={0 1 2}",
        f"ok {other}: 2 commands, 0 messages",
    ]


def test_what_is_no_scenario_ends_with_2(tmp_path: Path) -> None:
    ended = call(str(written(tmp_path, "start_node,0\nstop_node,0\n")))
    assert ended.returncode == 2
    assert "file:2: there is no command 'stop_node'" in ended.stderr
    assert call(str(tmp_path / "absent")).returncode == 2
    assert call().returncode == 2


@pytest.mark.parametrize(
    ("text", "expected", "seen"),
    [
        ("create_new_node,0\n", "a primary that could bring all nodes together", "none"),
        (THREE + "disconnect_node,0\nperiodic_one,0,100\n", "a primary that could bring all nodes together", "none"),
        (START + "replicate,3,x\n", "a primary in term 3", "primaries: 0 in 2"),
        (START + "periodic_one,0,soon\n", "a number of at most 12 digits", "'soon'"),
        (START + f"periodic_one,0,{'9' * 5000}\n", "a number of at most 12 digits", "5000 characters, '999999999999' ..."),
        (START + "start_node,1\n", "start_node as the first node", "nodes 0"),
        (START + "trust_node,2,0\n", "no node 0 yet", "there is one"),
        (START + "swap_nodes,2,0,1\n", "`in` or `out` after the term", "0"),
        (START + "swap_nodes,2,out,0\n", "a configuration with a node in it", "none"),
        (START + "assert_detail,0,retirement_phase,Signed\n", "0 to have a detail retirement_phase", "current_view, ticking"),
        (START + "assert_detail,0,leadership_state,Follower\n", "leadership_state of 0 to be Follower", "Leader"),
        (START + "assert_!detail,0,leadership_state,Leader\n", "leadership_state of 0 not to be Leader", "Leader"),
        (START + "assert_config,0,1,0,1\n", "configuration 1 of 0 to be 0, 1", "0"),
        (START + "assert_config,0,2,0\n", "configuration 2 of 0 to be 0", "none"),
        (START + "assert_absent_config,0,1\n", "no configuration 1 at 0", "0"),
        (START + "assert_last_txid,0,2.3\n", "2.3 as the last entry of 0", "2.2"),
        (START + "trust_node,2,1\nassert_state_sync\n", "all nodes in sync", "1 is in term 0, 0 in 2; 1 has nothing, 0 has 2.1 [2.2] 2.3"),
        (START + "pre_vote_enabled,yes\n", "true or false", "yes"),
        (START + "trust_node,2,1\nassert_loop_sync,1,0,1\n", "0, 1 in sync within 1 rounds among themselves", "1 has"),
        (START + "assert_is_backup,0\n", "leadership_state of 0 to be Follower", "Leader"),
        (START + "assert_isnot_primary,0\n", "leadership_state of 0 not to be Leader", "Leader"),
        (START + "assert_is_retired,0\n", "membership_state of 0 to be Retired", "Active"),
    ],
)
def test_what_does_not_hold_is_a_failure(tmp_path: Path, text: str, expected: str, seen: str) -> None:
    failure = run(written(tmp_path, text)).failure
    assert failure[1] == f"    expected: {expected}"
    assert failure[2].startswith(f"    seen:     {seen}")


@pytest.mark.parametrize(
    "line",
    [
        "periodic_one,7,10",
        "dispatch_one,7",
        "connect,0,7",
        "disconnect,7,0",
        "reconnect,0,7",
        "disconnect_node,7",
        "reconnect_node,7",
        "drop_pending,7",
        "drop_pending_to,0,7",
        "dispatch_single,0,7",
        "shuffle_one,7",
        "summarise_messages,0,7",
        "summarise_log,7",
        "state_one,7",
        "swap_node,2,7,1",
        "swap_nodes,2,in,1,out,7",
        "cleanup_nodes,2,7",
        "nominate_successor,7",
        "assert_loop_sync,3,0,7",
        "assert_commit_safety,7",
        "assert_commit_idx,7,1",
        "assert_last_txid,7,2.1",
        "assert_detail,7,leadership_state,Leader",
        "assert_config,7,1,0",
        "assert_absent_config,7,1",
    ],
)
def test_a_node_that_is_not_there_is_a_failure_wherever_it_is_named(tmp_path: Path, line: str) -> None:
    assert run(written(tmp_path, f"{START}{line}\n")).failure[1:3] == ["    expected: a node 7", "    seen:     nodes 0"]


def test_nodes_that_never_agree_are_a_failure(tmp_path: Path) -> None:
    class Deaf(Consensus):
        def _receive_append(self, sender: NodeId, message: AppendEntries) -> None:
            pass

    path = written(tmp_path, START + "trust_node,2,1\n")
    assert not run(path).failure
    failure = run(path, Deaf).failure
    assert failure[0] == f"{path}: after the last line: loop_until_sync"
    assert failure[1].startswith("    expected: all of 0, 1 in sync after 20 rounds")


def test_a_core_that_breaks_ends_with_the_transcript_too(tmp_path: Path) -> None:
    class Breaks(Consensus):
        def _receive_append(self, sender: NodeId, message: AppendEntries) -> None:
            raise IndexError("nothing there")

    path = written(tmp_path, START + "trust_node,2,1\nperiodic_one,0,10\ndispatch_all\n")
    outcome = run(path, Breaks)
    assert outcome.failure[:2] == [f"{path}:5: dispatch_all", "    IndexError: nothing there"]
    assert outcome.failure[4].startswith("        in _receive_append, test_runner.py:")
    assert outcome.transcript[-1].endswith("0=>1 AppendEntries view=2 prev=2.2 commit=2")


def test_entries_that_were_rolled_back_before_their_message_left_are_not_sent(tmp_path: Path) -> None:
    wins = "periodic_one,1,100\ndispatch_single,1,2\ndispatch_single,2,1\ndispatch_single,1,2\ndispatch_single,2,1\n"
    replaces = "emit_signature,3\nperiodic_one,1,10\n" + 4 * "dispatch_single,1,0\n" + "assert_last_txid,0,3.5\n"
    path = written(tmp_path, THREE + "replicate,2,x\nperiodic_one,0,10\n" + wins + replaces + "dispatch_single,0,1\n")
    outcome = run(path)
    assert not outcome.failure
    assert [line.strip() for line in outcome.transcript if "rolled back meanwhile" in line] == [
        "0-x1 AppendEntries view=2 prev=2.4 entries=2.5 commit=4: rolled back meanwhile",
        "0-x2 AppendEntries view=2 prev=2.4 entries=2.5 commit=4: rolled back meanwhile",
    ]
