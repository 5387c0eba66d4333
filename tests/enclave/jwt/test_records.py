"""The table of keys: only what is new is written, and every issuer has its own."""

from typing import Any

from ledgerd.enclave.jwt.records import KeyRecord, changes, read_records
from ledgerd.governance import descriptions, tables
from support.jwt import ISSUER, der, key, record, rows

RSA, P256 = key("RSA"), key("P-256")
OTHER = "https://other.example"


def after(before: dict[bytes, bytes | None], issuer: str, **keys: KeyRecord) -> dict[str, Any]:
    """Rows that change, decoded."""
    found = changes([(kid, row) for kid, row in before.items() if row is not None], issuer, keys)
    return {kid.decode(): None if row is None else tables.decode(row) for kid, row in found.items()}


def own(private: Any, constraint: str | None = None, issuer: str = ISSUER) -> KeyRecord:
    return KeyRecord(der(private), issuer, constraint)


def test_a_row_is_as_ccf_writes_it() -> None:
    found = changes([], ISSUER, {"k": own(P256), "l": own(P256, ISSUER)})
    assert found == rows(k=[record(P256)], l=[record(P256, constraint=ISSUER)])
    row = found[b"l"]
    assert row is not None and row.startswith(
        b'[{"constraint":"https://issuer.example/v2","issuer":"https://issuer.example/v2","public_key":"MF'
    )
    assert list(read_records(row)) == [own(P256, ISSUER)]


def test_what_is_there_already_is_not_written_again() -> None:
    assert after(rows(k=[record(RSA)], l=[record(P256, OTHER), record(P256)]), ISSUER, k=own(RSA), l=own(P256)) == {}


def test_a_key_is_added_replaced_and_removed_and_others_stay() -> None:
    before = rows(a=[record(RSA)], b=[record(RSA)], c=[record(RSA, OTHER)], d=[record(RSA, OTHER), record(RSA)], e=[record(RSA)])
    assert after(before, ISSUER, a=own(RSA), b=own(P256), c=own(P256), f=own(P256)) == {
        "b": [record(P256)],
        "c": [record(RSA, OTHER), record(P256)],
        "d": [record(RSA, OTHER)],
        "e": None,
        "f": [record(P256)],
    }


def test_a_changed_constraint_is_a_change() -> None:
    assert after(rows(a=[record(RSA)]), ISSUER, a=own(RSA, ISSUER)) == {"a": [record(RSA, constraint=ISSUER)]}


def test_an_issuer_is_removed_with_all_of_its_keys_and_no_others() -> None:
    before = rows(a=[record(RSA)], b=[record(P256), record(RSA, OTHER)], c=[record(RSA, OTHER)])
    assert after(before, ISSUER) == {"a": None, "b": [record(RSA, OTHER)]}
    assert after(before, "https://unknown.example") == {}


def test_a_row_of_another_making_is_left_as_it_is_and_one_that_is_no_list_is_replaced_only_for_its_id() -> None:
    before: dict[bytes, bytes | None] = {b"a": b"nonsense", b"b": b'[{"cert":"old"},7]'}
    assert after(before, ISSUER) == {}
    assert after(before, ISSUER, a=own(P256)) == {"a": [record(P256)]}


def test_governance_shows_the_key_as_pem() -> None:
    shown = descriptions.jwt([], [(kid, row) for kid, row in rows(k=[record(P256, constraint=ISSUER)]).items() if row is not None], [])
    (found,) = shown["keys"]["k"]
    assert found["issuer"] == ISSUER and found["constraint"] == ISSUER
    assert found["publicKey"].startswith("-----BEGIN PUBLIC KEY-----\nMF")
