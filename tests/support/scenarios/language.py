"""The form of scenario files: one command a line, words separated by commas, `#` begins a comment, a line of `====` ends the file.

Only the form. What the commands do is `driver`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

END: Final = "===="
ANY: Final = 1 << 16


class ScenarioError(Exception):
    """A file is no scenario: it names a command that does not exist, or with too few or too many words."""


class Step(NamedTuple):
    """One line that is a command."""

    number: int
    text: str
    command: str
    words: tuple[str, ...]


# How many words each command takes, at least and at most.
COMMANDS: Final[dict[str, tuple[int, int]]] = {
    # Nodes and configurations.
    "start_node": (1, 1),
    "trust_node": (2, 2),
    "trust_nodes": (2, ANY),
    "swap_node": (3, 3),
    "swap_nodes": (3, ANY),
    "cleanup_nodes": (2, ANY),
    "nominate_successor": (1, 1),
    "pre_vote_enabled": (1, 1),
    # The same, deprecated.
    "nodes": (1, ANY),
    "create_new_node": (1, 1),
    "replicate_new_configuration": (2, ANY),
    # Entries.
    "replicate": (2, 2),
    "emit_signature": (1, 1),
    # Time.
    "periodic_one": (2, 2),
    "periodic_all": (1, 1),
    # The network.
    "connect": (2, 2),
    "disconnect": (2, 2),
    "reconnect": (2, 2),
    "disconnect_node": (1, 1),
    "reconnect_node": (1, 1),
    "drop_pending": (1, 1),
    "drop_pending_to": (2, 2),
    "dispatch_one": (1, 1),
    "dispatch_single": (2, 2),
    "dispatch_all": (0, 0),
    "dispatch_all_once": (0, 0),
    "shuffle_one": (1, 1),
    "shuffle_all": (0, 0),
    "loop_until_sync": (0, 0),
    "assert_loop_sync": (2, ANY),
    # For readers of the transcript, and of logs.
    "mark_seed": (1, 1),
    "state_one": (1, 1),
    "state_all": (0, 0),
    "summarise_log": (1, 1),
    "summarise_logs_all": (0, 0),
    "summarise_messages": (2, 2),
    # Assertions.
    "assert_state_sync": (0, 0),
    "assert_commit_safety": (1, 1),
    "assert_commit_idx": (2, 2),
    "assert_last_txid": (2, 2),
    "assert_detail": (3, 3),
    "assert_!detail": (3, 3),
    "assert_config": (3, ANY),
    "assert_absent_config": (2, 2),
    # The same, deprecated.
    "assert_is_primary": (1, 1),
    "assert_is_backup": (1, 1),
    "assert_is_candidate": (1, 1),
    "assert_is_retired": (1, 1),
    "assert_is_active": (1, 1),
    "assert_isnot_primary": (1, 1),
    "assert_isnot_backup": (1, 1),
    "assert_isnot_candidate": (1, 1),
}


def parse(text: str, name: str) -> Iterator[Step]:
    """The commands of a file.

    Raises: ScenarioError: A line is none; it says which, and what would be.
    """
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content.startswith(END):
            return
        if not content:
            continue
        command, *words = (word.strip() for word in content.split(","))
        limits = COMMANDS.get(command)
        if limits is None:
            raise ScenarioError(f"{name}:{number}: there is no command {command!r}; known are {', '.join(COMMANDS)}")
        if command == "replicate":
            words = [words[0], ",".join(words[1:])] if len(words) > 1 else words  # data may contain commas
        if "" in words and command != "replicate":  # data may be empty
            raise ScenarioError(f"{name}:{number}: {command} has an empty word: {content!r}")
        least, most = limits
        if not least <= len(words) <= most:
            many = least if least == most else f"at least {least}" if most == ANY else f"{least} to {most}"
            raise ScenarioError(f"{name}:{number}: {command} takes {many} words, not {len(words)}: {content!r}")
        yield Step(number, content, command, tuple(words))


def read(path: Path) -> list[Step]:
    """All commands of a file.

    Raises: ScenarioError: It cannot be read, or is no scenario.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from None
    return list(parse(text, str(path)))
