"""The picture of a transaction's way shows what the code does, and refuses to show what it does not."""

import runpy
from typing import Any, Final

import pytest

from support.repository import ROOT

PICTURE: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "scripts" / "picture"))


def test_the_document_shows_the_present_picture() -> None:
    before = (ROOT / "docs" / "architecture.md").read_text()
    assert PICTURE["embed"](before, PICTURE["draw"]()) == before, "run: scripts/picture --write"


@pytest.mark.parametrize(
    ("caller", "called", "said"),
    [
        ("enclave.core.Enclave.receive", "enclave.sessions.Sessions.gone", "which does not exist"),
        ("enclave.core.Enclave.gone", "enclave.sessions.Sessions.received", "which does not exist"),
        ("enclave.gone.Enclave", "enclave.sessions.Sessions.received", "which does not exist"),
        ("enclave.core.Enclave.receive", "node.storage.Storage.append", "which it does not mention"),
    ],
)
def test_a_step_that_the_code_does_not_take_is_refused(caller: str, called: str, said: str) -> None:
    step = PICTURE["Step"]("enclave", "enclave", caller, called, "never")
    with pytest.raises(PICTURE["PictureError"], match=said):
        PICTURE["draw"]((step,))
