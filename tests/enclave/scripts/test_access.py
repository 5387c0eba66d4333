"""Which maps a script may open, by what it is run for."""

import pytest

from ledgerd.enclave.scripts.access import READ, WRITE, Access, explain, rights

RW = READ | WRITE


@pytest.mark.parametrize(
    ("name", "app_rw", "app_ro", "gov_ro", "gov_rw"),
    [
        ("records", RW, READ, 0, 0),
        ("public:records", RW, READ, READ, WRITE),
        ("public:ccf.gov.members.certs", READ, READ, READ, RW),
        ("public:ccf.internal.signatures", READ, READ, READ, READ),
        ("ccf.internal.encrypted_ledger_secrets", 0, 0, 0, 0),
        ("ccf.gov.anything", 0, 0, 0, 0),
        ("ledgerd.internal.idempotency", 0, 0, 0, 0),
        ("public:ledgerd.anything", READ, READ, READ, READ),
        ("public:ccf.governance", READ, READ, READ, READ),  # not governance's, whose prefix ends with a dot
        ("public:", RW, READ, READ, WRITE),
        ("", 0, 0, 0, 0),
        ("m" * 257, 0, 0, 0, 0),
    ],
)
def test_rights_follow_ccf_s_table(name: str, app_rw: int, app_ro: int, gov_ro: int, gov_rw: int) -> None:
    assert [rights(access, name) for access in (Access.APP_RW, Access.APP_RO, Access.GOV_RO, Access.GOV_RW)] == [
        app_rw,
        app_ro,
        gov_ro,
        gov_rw,
    ]


def test_a_refusal_says_what_the_map_is_and_for_whom() -> None:
    assert explain(Access.APP_RO, "records") == "This table is read-only in the current (read-only application) execution context."
    assert "write-only in the current (read-write governance)" in explain(Access.GOV_RW, "public:records")
    assert "inaccessible" in explain(Access.GOV_RO, "records")
