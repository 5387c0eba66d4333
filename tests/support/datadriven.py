"""Tests that are files: commands and what they must print, so that an expert can read the behaviour without reading Python.

A file is a list of blocks, separated by empty lines; `#` lines are comments:

    command word word
    more input
    ----
    expected output

Where LEDGERD_REWRITE is set, the expected output is replaced by the actual one; then read the diff.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SEPARATOR = "----"


def run(path: Path, handle: Callable[[list[str]], str]) -> None:
    """Give each block's input (lines without comments) to `handle` and compare what it returns with the block's output, trailing white
    space aside.
    """
    rewritten: list[str] = []
    for number, block in _blocks(path.read_text()):
        lines = block.split("\n")
        if SEPARATOR not in lines:
            if any(line and not line.startswith("#") for line in lines):
                pytest.fail(f"{path.name}:{number}: a block without {SEPARATOR}")
            rewritten.append(block)
            continue
        cut = lines.index(SEPARATOR)
        actual = handle([line for line in lines[:cut] if not line.startswith("#")])
        actual = "\n".join(line.rstrip() for line in actual.strip("\n").split("\n"))
        expected = "\n".join(line.rstrip() for line in lines[cut + 1 :])
        if "LEDGERD_REWRITE" not in os.environ:
            assert actual == expected, f"{path.name}:{number}: {' / '.join(lines[:cut])}"
        rewritten.append("\n".join([*lines[: cut + 1], actual] if actual else lines[: cut + 1]))
    if "LEDGERD_REWRITE" in os.environ:
        path.write_text("\n\n".join(rewritten) + "\n")


def _blocks(text: str) -> list[tuple[int, str]]:
    blocks = []
    number = 1
    for block in text.rstrip("\n").split("\n\n"):
        blocks.append((number, block))
        number += block.count("\n") + 2
    return blocks


def scenario_files(folder: Path) -> list[Path]:
    """All scenario files of a folder, for `pytest.mark.parametrize`."""
    return sorted(folder.glob("*.txt"))
