"""What an entry is to a replica."""

from ledgerd.enclave.replica import is_plain


def test_an_entry_is_plain_unless_it_writes_a_table_of_the_service() -> None:
    assert is_plain({"records": {b"k": b"v"}, "public:records": {b"k": None}})
    assert is_plain({})  # no primary makes one; it must not end a backup either
    assert not is_plain({"public:ccf.gov.nodes.info": {b"n": b"{}"}})
    assert not is_plain({"records": {b"k": b"v"}, "public:ccf.internal.tree": {b"\0": b""}})
