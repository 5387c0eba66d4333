"""Changes in words: bounded, whatever stands in the records."""

from typing import Any

import pytest

from ledgerd.governance import descriptions
from ledgerd.node.cli import gov_changes
from support.cluster import make_identity

ONE, TWO = make_identity("one"), make_identity("two")
ABSENT = gov_changes._ABSENT


def words(before: Any, after: Any) -> list[str]:
    return list(gov_changes.compared(before, after))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}, ["b: 2 -> 3", "c: null"]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a.b.c: 1 -> 2"]),
        ({"a": 1}, {}, ["a: 1, gone"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: [1] -> [1, 2]"]),
        ({"a": {}}, {"a": 1}, ["a: {} -> 1"]),
        (ABSENT, {"a": {"b": 1}}, ["a.b: 1"]),
        ({"a": {"b": 1}}, ABSENT, ["a.b: 1, gone"]),
        (ABSENT, True, ["true"]),
        ("x", ABSENT, ["x, gone"]),
        ("", " ", ['"" -> " "']),
        ("x", "y" * 300, ["was x", f"now text of 1 lines, 300 characters, SHA-256 {gov_changes._digest('y' * 300)}"]),
    ],
)
def test_values_are_compared_field_by_field(before: Any, after: Any, told: list[str]) -> None:
    assert words(before, after) == told


def test_a_certificate_is_told_by_whose_it_is() -> None:
    (line,) = gov_changes.shown(ONE.pem)
    assert line.startswith("certificate of CN=one, until ")
    assert len(gov_changes.shown(ONE.pem + TWO.pem)) == 2
    (line,) = gov_changes.shown("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert line.startswith("a certificate that cannot be read (ValueError)")
    assert len(gov_changes.shown(ONE.pem * 25)) == gov_changes.CERTIFICATES_MAX + 1


def test_texts_are_compared_by_lines_within_limits() -> None:
    old = "".join(f"line {number}\n" for number in range(100))
    assert words(old, old.replace("line 50\n", "")) == [
        words(old, old.replace("line 50\n", ""))[0],
        "@@ -49,5 +49,4 @@",
        " line 48",
        " line 49",
        "-line 50",
        " line 51",
        " line 52",
    ]
    many = "".join(f"{number}\n" for number in range(gov_changes.LINES_COMPARED_MAX + 1))
    assert words(old, many)[1:] == ["too long to be compared here; -o json has both texts"]
    other = "".join(f"other {number}\n" for number in range(1000))
    assert len(words(old, other)) == gov_changes.LINES_SHOWN_MAX + 2


def test_nothing_is_left_out_unsaid() -> None:
    key = ":".join(("a" * 96, "b" * 96, "c" * 96)).encode()
    (change,) = gov_changes.read_changes(dict(descriptions.effects([("t", key, None, b'"AllowedToJoin"')])))
    assert list(gov_changes.lines_of([change])) == ["t", f"  + {key.decode()}", "        AllowedToJoin"]
    for after in ("x" * 10_000, ["x" * 10_000], "a\nb\n" + "c" * 10_000):
        told = words("a\n", after)
        assert all(len(line) < 2 * gov_changes.LINE_SHOWN_MAX for line in told)
        assert any(f"{size} characters" in line for line in told for size in (10_000, 10_001, 10_004)), told


def test_a_proposal_is_told_field_by_field() -> None:
    modules = [{"name": "a.js", "module": "one\ntwo\n"}, {"name": "b.js", "module": "x"}]
    proposal = {"actions": [{"name": "set_js_app", "args": {"bundle": {"modules": modules}, "n": [1, 2]}}, {"name": "trigger_snapshot"}]}
    assert list(gov_changes.action_lines(proposal)) == [
        "  1. set_js_app",
        "       bundle.modules[0].name: a.js",
        f"       bundle.modules[0].module: text of 3 lines, 8 characters, SHA-256 {gov_changes._digest(modules[0]['module'])}",
        "       bundle.modules[1].name: b.js",
        "       bundle.modules[1].module: x",
        "       n: [1, 2]",
        "  2. trigger_snapshot",
    ]


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"{}", {}), (b"null", "null"), (b"\xff\x00", "ff00"), (b"text", "text"), (b"", ""), (b"[" * 100_000, "[" * 100_000)],
)
def test_a_record_is_read_as_what_it_is(data: bytes, value: Any) -> None:
    (change,) = gov_changes.read_changes(dict(descriptions.effects([("t", b"k", None, data)])))
    assert (change.sign, change.key, change.after.value, change.after.is_told) == ("+", "k", value, True)


def test_what_was_too_large_is_told_by_size_and_digest() -> None:
    effects = descriptions.effects([("t", b"\xff", b"x", bytes(5 << 20))])
    (change,) = gov_changes.read_changes(dict(effects))
    assert list(gov_changes.lines_of([change]))[:2] == ["t", "  ~ ff"]
    assert any("5242880 bytes" in line for line in gov_changes.lines_of([change]))
    told = gov_changes.as_json(change)
    assert (told["before"]["value"], told["after"]["value"], told["after"]["size_bytes"]) == ("x", None, 5 << 20)
