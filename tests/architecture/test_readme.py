"""The README tells the truth: its help is the program's, its commands work as printed, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from support.repository import ROOT

README: Final = (ROOT / "README.md").read_text()
BEGIN: Final = "<!-- help: the output of `ledgerd --help`, compared by a test -->\n```\n"
END: Final = "```\n<!-- end of help -->"
DOCUMENTS: Final = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "newsfragments").glob("*.md")])
KINDS: Final = {"feature", "change", "bugfix", "security", "removal", "doc"}


def test_the_help_shown_is_the_programs_own() -> None:
    command = [sys.executable, "-m", "ledgerd.node.cli.main", "--help"]
    done = subprocess.run(command, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True, check=True)
    assert README.split(BEGIN)[1].split(END)[0] == done.stdout


@pytest.mark.slow
def test_the_commands_shown_work_as_printed(tmp_path: Path) -> None:
    """All shell blocks after the first, in order, against a service that `scripts/dev --dir service` would start."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[1:]
    shown = "".join(blocks)
    assert "curl" in shown and "ledgerd receipt verify" in shown
    script = ["set -e"]
    for line in shown.replace("\\\n", " ").splitlines():
        command = line.replace("https://127.0.0.1:8000", "$LEDGERD_URL").replace("2.12", "$ID")
        if command.startswith("export"):
            command = f'export PATH="{Path(sys.executable).parent}:$PATH"'
        elif command.startswith("curl"):
            script.append(f"{command} | tee answer")
            command = "ID=$(sed -n 's/^x-ms-ccf-transaction-id: \\([0-9.]*\\).*/\\1/p' answer)"
        script.append(command)
    (tmp_path / "commands").write_text("\n".join(script))
    whole = [str(Path(sys.executable).with_name("ledgerd")), "dev", "--dir", "service", "--port", "0", "--exec", "sh ./commands"]
    done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "204 No Content" in done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        found = (document.parent / path) if path else document
        assert found.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [name[:4] for name in listed] == [f"{number:04}" for number in range(1, len(listed) + 1)]


def test_news_fragments_are_of_a_known_kind_and_say_something() -> None:
    fragments = [path for path in (ROOT / "newsfragments").iterdir() if path.name != "README.md"]
    assert fragments
    for path in fragments:
        name, kind, extension = path.name.rsplit(".", 2)
        assert name and kind in KINDS and extension == "md", path.name
        text = path.read_text()
        assert text.strip().endswith((".", "!")) and "\n\n" not in text.strip(), f"{path.name}: one paragraph, in sentences"
