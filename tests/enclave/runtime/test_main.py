import pytest

from ledgerd.enclave.runtime.main import describe
from ledgerd.ledger.errors import IntegrityError


def test_an_unforeseen_exception_is_told_without_what_it_holds() -> None:
    with pytest.raises(KeyError) as caught:
        dict[str, str]()["the private value 4711"]
    text = describe(caught.value)
    assert "4711" not in text
    assert text.startswith("KeyError")
    assert "test_main.py:" in text


def test_our_own_errors_speak_for_themselves() -> None:
    assert "root differs" in describe(IntegrityError("root differs"))
