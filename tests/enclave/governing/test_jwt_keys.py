"""The two calls with which a constitution changes tokens' keys."""

from typing import Any

import pytest

from ledgerd.enclave.endpoints import Context, Maps
from ledgerd.enclave.governing.jwt_keys import CALLS
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request
from ledgerd.governance import tables
from support.jwt import ISSUER, jwk, key, record, rows

RSA, P256 = key("RSA"), key("P-256")


class Transaction:
    """One transaction, in which the calls are made."""

    def __init__(self, **keys: list[dict[str, Any]]) -> None:
        self.store = Store()
        self.store.apply(1, {tables.JWT_KEYS: rows(**keys)})
        self.transaction = self.store.begin()
        self.context = Context(Request("", "POST", "/", "", {}, b"", None, ""), {}, None, Maps(self.transaction), self.transaction)

    def call(self, name: str, *arguments: Any) -> dict[bytes, bytes | None]:
        """What the call writes."""
        assert CALLS[name](self.context, list(arguments)) is None
        return dict(self.transaction.take().get(tables.JWT_KEYS, {}))


def test_keys_are_set_through_the_transaction() -> None:
    found = Transaction(old=[record(RSA)]).call("setJwtPublicSigningKeys", ISSUER, {"auto_refresh": False}, {"keys": [jwk(P256, "k")]})
    assert found == {**rows(k=[record(P256)]), b"old": None}


def test_setting_the_same_keys_again_writes_nothing() -> None:
    assert Transaction(k=[record(P256)]).call("setJwtPublicSigningKeys", ISSUER, {}, {"keys": [jwk(P256, "k")]}) == {}


def test_keys_are_removed_with_their_issuer() -> None:
    assert Transaction(a=[record(RSA)], b=[record(RSA, "https://x.example")]).call("removeJwtPublicSigningKeys", ISSUER) == {b"a": None}


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("setJwtPublicSigningKeys", (), "takes an issuer, its metadata and a JWKS"),
        ("setJwtPublicSigningKeys", (ISSUER, {}), "takes an issuer, its metadata and a JWKS"),
        ("setJwtPublicSigningKeys", (7, {}, {"keys": []}), "a string that is not empty"),
        ("setJwtPublicSigningKeys", ("", {}, {"keys": []}), "a string that is not empty"),
        ("setJwtPublicSigningKeys", (ISSUER, {}, None), "JWKS has no keys"),
        ("setJwtPublicSigningKeys", (ISSUER, {}, {"keys": [jwk(key("RSA-1024"), "k")]}), "an RSA key of 1024 bits"),
        ("setJwtPublicSigningKeys", (ISSUER, {}, {"keys": [jwk(RSA, "k", use="enc")]}), "another use than sig"),
        ("removeJwtPublicSigningKeys", (), "takes an issuer"),
        ("removeJwtPublicSigningKeys", (ISSUER, ISSUER), "takes an issuer"),
        ("removeJwtPublicSigningKeys", (None,), "a string that is not empty"),
    ],
)
def test_a_wrong_argument_is_told_to_the_script_and_writes_nothing(name: str, arguments: tuple[Any, ...], why: str) -> None:
    transaction = Transaction(k=[record(P256)])
    with pytest.raises(ValueError) as caught:
        transaction.call(name, *arguments)
    assert why in str(caught.value)
    assert not transaction.transaction.take()
