"""`ledgerd gov diff` and `show`: what a proposal would change, as the constitution does it, in words and for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from ledgerd.governance import tables
from support.cluster import make_identity
from support.command_line import Ledgerd, Ran
from support.council import Council
from support.executing import USER
from support.fake_service import FakeService
from support.governed import ALICE, BOB, CAROL, id_of
from support.members import files

CHANGE = {"name": "set_member_data", "args": {"member_id": id_of(BOB), "member_data": {"name": "Bank B"}}}


def text(*actions: Any, **more: Any) -> bytes:
    return json.dumps({"actions": actions, **more}).encode()


@pytest.fixture
def asking(council: Council, options: list[object], tmp_path: Path) -> list[object]:
    """Options of alice, who is known to the node."""
    council.caller = id_of(ALICE)
    return [*files(ALICE, tmp_path), *options]


# diff.


def test_the_change_of_a_record_is_shown_field_by_field(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    name = council.put_proposal(text(CHANGE))
    ran = ledgerd("gov", "diff", name[:8], *asking)
    assert (ran.status, ran.out.splitlines()) == (
        0,
        ["public:ccf.gov.members.info", f"  ~ {id_of(BOB)}", '        member_data: bob -> {"name": "Bank B"}'],
    )
    assert council.asked == [("GET", f"/gov/members/proposals/{name}/effects?api-version=2024-07-01", b"")]
    ran = ledgerd("gov", "diff", name, "-o", "json", *asking)
    (change,) = ran.json["changes"]
    assert (ran.json["schema"], ran.json["proposal_id"], ran.json["valid"]) == ("ledgerd.gov_diff.v1", name, True)
    assert (change["table"], change["key"], change["change"]) == (tables.MEMBER_INFO, id_of(BOB), "changed")
    assert change["before"]["value"] == {"status": "Active", "member_data": "bob"}
    assert change["after"]["value"] == {"status": "Active", "member_data": {"name": "Bank B"}}


def test_a_file_is_asked_about_as_it_is_and_is_not_made(ledgerd: Ledgerd, council: Council, asking: list[object], tmp_path: Path) -> None:
    file = tmp_path / "proposal.json"
    file.write_bytes(text(CHANGE) + b"\n")
    ran = ledgerd("gov", "diff", file, *asking)
    assert (ran.status, "bob -> " in ran.out) == (0, True)
    assert council.asked == [("POST", "/gov/members/proposals:preview?api-version=2024-07-01", file.read_bytes())]
    assert council.names() == []
    assert ledgerd("gov", "diff", file, "-o", "json", *asking).json["proposal_id"] is None


def test_certificates_are_shown_by_whose_they_are(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    council.node.put({tables.USER_CERTS: {id_of(CAROL).encode(): CAROL.pem.encode()}})
    name = council.put_proposal(text({"name": "remove_user", "args": {"user_id": id_of(CAROL)}}))
    lines = ledgerd("gov", "diff", name, *asking).out.splitlines()
    assert lines[:2] == ["public:ccf.gov.users.certs", f"  - {id_of(CAROL)}"]
    until = CAROL.certificate.not_valid_after_utc
    assert lines[2] == f"        certificate of CN=carol, until {until:%Y-%m-%d}, SHA-256 {id_of(CAROL)}, gone"


def test_a_text_is_compared_line_by_line(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    old = council.node.row(tables.CONSTITUTION, tables.SINGLETON)
    new = old.replace("const SHOWN_CHARACTERS = 60;", "const SHOWN_CHARACTERS = 61;")
    assert new != old
    council.node.put({tables.CONSTITUTION: {tables.SINGLETON: tables.encode(old)}})
    lines = list(gov_lines({tables.CONSTITUTION: (old, new)}))
    assert lines[:2] == ["public:ccf.gov.constitution", "  ~ (the one record)"]
    assert "        -const SHOWN_CHARACTERS = 60;" in lines
    assert "        +const SHOWN_CHARACTERS = 61;" in lines
    assert len(lines) < 12


def gov_lines(changed: dict[str, tuple[Any, Any]]) -> Any:
    """Changes of tables with one record, as JSON, in words."""
    from ledgerd.governance import descriptions
    from ledgerd.node.cli import gov_changes

    told = descriptions.effects((name, tables.SINGLETON, tables.encode(old), tables.encode(new)) for name, (old, new) in changed.items())
    return gov_changes.lines_of(gov_changes.read_changes(dict(told)))


def test_what_would_fail_is_told_and_is_status_1(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    name = council.put_proposal(text(CHANGE, {"name": "set_user_data", "args": {"user_id": "ff" * 32}}))
    ran = ledgerd("gov", "diff", name, *asking)
    assert (ran.status, "could not be applied now" in ran.out, "there is no user" in ran.out) == (1, True, True)
    ran = ledgerd("gov", "diff", name, "-o", "json", *asking)
    assert (ran.status, ran.json["changes"]) == (1, [])
    assert "there is no user" in ran.json["failure"]


def test_what_is_not_valid_is_told_and_is_status_1(ledgerd: Ledgerd, council: Council, asking: list[object], tmp_path: Path) -> None:
    file = tmp_path / "proposal.json"
    file.write_bytes(text({"name": "make_me_rich"}))
    ran = ledgerd("gov", "diff", file, *asking)
    assert (ran.status, "it is not valid" in ran.out, "make_me_rich at position 0" in ran.out) == (1, True, True)
    file.write_bytes(text({"name": "set_usr"}))
    assert "did you mean set_user?" in ledgerd("gov", "diff", file, *asking).out


def test_what_changes_no_table_is_told(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    name = council.put_proposal(text({"name": "trigger_ledger_chunk"}))
    ran = ledgerd("gov", "diff", name, *asking)
    assert (ran.status, ran.out.startswith("no table;")) == (0, True)


def test_who_is_no_member_is_told(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    name = council.put_proposal(text(CHANGE))
    council.caller = USER
    ran = ledgerd("gov", "diff", name, *files(ALICE, tmp_path), *options)
    assert (ran.status, "401 InvalidAuthenticationInfo" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("what", "with_member", "told"),
    [("ab" * 32, False, "only members"), ("ab", True, "is no proposal's name"), ("FILE", True, "is no proposal")],
)
def test_a_wrong_call_is_told_before_anything_is_asked(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, what: str, with_member: bool, told: str
) -> None:
    file = tmp_path / "proposal.json"
    file.write_bytes(b"{}")
    ran = ledgerd("gov", "diff", file if what == "FILE" else what, *(files(ALICE, tmp_path) if with_member else ()), *options)
    assert (ran.status, ran.out, told in ran.err) == (2, "", True), ran.err
    assert service.nodes[0].requests == []


@pytest.mark.parametrize(
    "effects",
    [
        {},
        {"valid": True, "description": "", "changesLeftOut": 0, "changes": 1},
        {"valid": True, "description": "", "changesLeftOut": 0, "changes": [{"table": "t"}]},
        {"valid": True, "description": "", "changesLeftOut": 0, "changes": [{"table": "t", "key": "???", "before": 1, "after": None}]},
        [],
    ],
)
def test_an_answer_of_another_form_is_told(ledgerd: Ledgerd, council: Council, asking: list[object], effects: Any) -> None:
    name = council.put_proposal(text(CHANGE))
    council.effects = effects
    ran = ledgerd("gov", "diff", name, "-o", "json", *asking)
    assert (ran.status, ran.json["error"]["code"]) == (1, "FormatError"), ran


# show.


def shown(ledgerd: Ledgerd, name: str, *options: object) -> Ran:
    ran = ledgerd("gov", "show", name, *options)
    assert ran.status == 0, ran.err
    return ran


def test_a_proposal_is_shown_with_votes_and_effects(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    user = make_identity("user")
    add = {"name": "set_user", "args": {"cert": user.pem, "user_data": {"role": "clerk"}}}
    script = "export function vote() {\n  return true;\n}\n"
    against = "export function vote(rawProposal, proposerId) { return false; }"
    name = council.put_proposal(text(add, expires_at=2_000_000_000), ballots={id_of(ALICE): script, id_of(BOB): against})
    out = shown(ledgerd, name, *asking).out.splitlines()
    assert out[:4] == [
        f"proposal  {name}",
        "state     Open: 2 of 2 active members have voted",
        f"proposer  {id_of(ALICE)[:16]}... (alice)",
        "expires   2033-05-18T03:33:20Z",
    ]
    assert set(out[4:6]) == {
        f"ballot    {id_of(BOB)[:16]}... (bob): against",
        next(line for line in out if "(alice): by a script, text of 4 lines" in line),
    }
    begin = out.index("asks for")
    assert out[begin + 1] == "  1. set_user"
    assert out[begin + 2].startswith("       cert: certificate of CN=user, until ")
    assert out[begin + 2].endswith(f"SHA-256 {id_of(user)}")
    assert out[begin + 3] == "       user_data.role: clerk"
    after = out.index("would change")
    assert f"    + {id_of(user)}" in out[after:]
    found = shown(ledgerd, name, "-o", "json", *asking).json
    assert (found["schema"], found["state"], found["active_members"]) == ("ledgerd.gov_show.v1", "Open", 2)
    assert {ballot["member_id"]: ballot["says"] for ballot in found["ballots"]} == {id_of(ALICE): None, id_of(BOB): "against"}
    assert found["proposal"]["actions"] == [add]
    assert [change["table"] for change in found["effects"]["changes"]] == [tables.USER_CERTS, tables.USER_INFO]


def test_of_a_long_text_a_beginning_is_shown_and_where_the_rest_is(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    lines = "\n".join(f"// line {number}" for number in range(300))
    source = f"export function main() {{}}\n{lines}"
    endpoint = {"js_module": "a.js", "js_function": "main", "mode": "readonly", "authn_policies": []}
    bundle = {"metadata": {"endpoints": {"/a": {"get": endpoint}}}, "modules": [{"name": "a.js", "module": source}]}
    name = council.put_proposal(text({"name": "set_js_app", "args": {"bundle": bundle}}))
    out = shown(ledgerd, name, *asking).out
    assert "// line 30\n" in out
    assert "// line 200\n" not in out
    assert len(out.splitlines()) < 80
    (cut,) = [line.strip() for line in out.splitlines() if "more lines: " in line]
    assert cut.endswith(f"more lines: ledgerd gov diff {name}")
    assert "// line 299\n" in ledgerd("gov", "diff", name, *asking).out
    changes = shown(ledgerd, name, "-o", "json", *asking).json["effects"]["changes"]
    assert source in [change["after"]["value"] for change in changes]


def test_who_is_no_member_is_shown_the_rest(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    name = council.put_proposal(text(CHANGE))
    ran = shown(ledgerd, name, *options)
    assert ("would change" in ran.out, "ask as a member" in ran.err) == (False, True)
    assert shown(ledgerd, name, "-o", "json", *options).json["effects"] is None
    council.caller = USER
    ran = shown(ledgerd, name, *files(ALICE, tmp_path), *options)
    assert "401 InvalidAuthenticationInfo" in ran.err


def test_what_is_decided_is_shown_with_its_reason(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    name = council.put_proposal(text(CHANGE), "Rejected")
    ran = shown(ledgerd, name, *asking)
    assert ("state     Rejected" in ran.out, "would change" in ran.out, ran.err) == (True, False, "")
    assert council.asked == []


def test_what_strangers_wrote_moves_no_cursor_and_makes_no_lines(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    hostile = "a\x1b[2J\nstate     Accepted\u202e"
    name = council.put_proposal(text({"name": hostile, "args": {hostile: hostile, "b": [hostile]}}))
    out = shown(ledgerd, name, *asking).out
    assert ("\x1b" in out, "\u202e" in out, "\nstate     Accepted" in out) == (False, False, False)
    assert "state     Open" in out


def test_what_is_nested_deeply_is_shown_as_text(ledgerd: Ledgerd, council: Council, asking: list[object]) -> None:
    deep = b'{"a":' * 600 + b"1" + b"}" * 600
    arguments = b'{"member_id": "' + id_of(BOB).encode() + b'", "member_data": ' + deep + b"}"
    name = council.put_proposal(b'{"actions": [{"name": "set_member_data", "args": ' + arguments + b"}]}")
    for words in (["show", name], ["diff", name], ["show", name, "-o", "json"], ["diff", name, "-o", "json"]):
        ran = ledgerd("gov", *words, *asking)
        assert (ran.status, len(ran.out) > 200) == (0, True), ran.err


@pytest.mark.parametrize("content", [b"[]", b"\xff", b"{}", b'{"actions": 1}', b'{"actions": [1, {"name": 2}, {"name": "x", "args": 3}]}'])
def test_a_proposal_of_any_form_is_shown(ledgerd: Ledgerd, council: Council, options: list[object], content: bytes) -> None:
    name = council.put_proposal(content)
    assert "asks for\n  " in shown(ledgerd, name, *options).out
