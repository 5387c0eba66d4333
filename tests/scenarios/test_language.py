"""The form of scenario files."""

from pathlib import Path

import pytest

from support.scenarios.driver import Driver
from support.scenarios.language import COMMANDS, ScenarioError, Step, parse, read


def test_comments_blanks_and_everything_after_the_end_are_left_out() -> None:
    text = "# first\n\nstart_node,0  # why\n \t\nreplicate,2,hello world, and more  \n======\nnonsense\n"
    assert list(parse(text, "file")) == [
        Step(3, "start_node,0", "start_node", ("0",)),
        Step(5, "replicate,2,hello world, and more", "replicate", ("2", "hello world,and more")),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dispatch_some", "there is no command 'dispatch_some'"),
        ("start_node", "start_node takes 1 words, not 0"),
        ("assert_config,0,1", "assert_config takes at least 3 words, not 2"),
        ("replicate,2", "replicate takes 2 words, not 1"),
        ("start_node,", "start_node has an empty word"),
        ("trust_nodes,2,1,,3", "trust_nodes has an empty word"),
        ("dispatch_all,0", "dispatch_all takes 0 words, not 1"),
    ],
)
def test_a_line_that_is_no_command_is_refused_with_its_place(line: str, words: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        list(parse(f"# comment\n{line}\n", "file"))
    assert str(refused.value).startswith(f"file:2: {words}")


def test_a_mark_of_byte_order_begins_no_command(tmp_path: Path) -> None:
    path = tmp_path / "marked"
    path.write_bytes(b"\xef\xbb\xbfstart_node,0\r\n")
    assert read(path) == [Step(1, "start_node,0", "start_node", ("0",))]


def test_a_file_that_cannot_be_read_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        read(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="cannot be read"):
        read(tmp_path / "binary")


def test_every_command_has_a_meaning_and_nothing_else_has() -> None:
    meanings = {name.removeprefix("do_").replace("assert_not_detail", "assert_!detail") for name in dir(Driver) if name.startswith("do_")}
    assert meanings == set(COMMANDS)
