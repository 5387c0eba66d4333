"""The tables in docs/consensus.md are the code's. Where LEDGERD_REWRITE is set they are written anew."""

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ledgerd.enclave.consensus.progress import FLOW_TRANSITIONS
from ledgerd.enclave.consensus.roles import RETIREMENT_TRANSITIONS, ROLE_TRANSITIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "consensus.md"


def table(rows: Mapping[Any, Enum]) -> str:
    lines = ["| From | When | To |", "|---|---|---|"]
    lines += [f"| {before.name} | {cause.name}: {cause.value} | {after.name} |" for (before, cause), after in rows.items()]
    return "\n".join(lines)


def test_the_document_shows_the_tables_of_the_code() -> None:
    text = expected = DOCUMENT.read_text()
    tables: dict[str, Mapping[Any, Enum]] = {"roles": ROLE_TRANSITIONS, "flows": FLOW_TRANSITIONS, "retirement": RETIREMENT_TRANSITIONS}
    for name, rows in tables.items():
        start = f"<!-- {name} -->\n"
        before, found, after = expected.partition(start)
        assert found, name
        expected = before + start + table(rows) + "\n" + after[after.index("<!-- end -->") :]
    if "LEDGERD_REWRITE" in os.environ:
        DOCUMENT.write_text(expected)
    else:
        assert text == expected, "run the tests with LEDGERD_REWRITE=1 and read the difference"
