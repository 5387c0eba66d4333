"""Bytes that wait for the disk."""

from ledgerd.node.promises import Promises


def test_pieces_are_due_by_batch_in_their_order() -> None:
    promises = Promises()
    promises.promise(1, [(-1, b"a"), (-2, b"bb")])
    promises.promise(2, [(-1, b"c")])
    assert promises.size_bytes == 4
    assert promises.due(0) == []
    assert promises.due(1) == [(-1, b"a"), (-2, b"bb")]
    assert not promises.holds(-2)
    assert promises.holds(-1)
    assert promises.due(5) == [(-1, b"c")]
    assert (promises.due(5), promises.size_bytes) == ([], 0)


def test_what_waits_for_a_stream_that_is_gone_is_forgotten() -> None:
    promises = Promises()
    promises.promise(1, [(-1, b"a"), (-2, b"bb")])
    promises.forget(-1)
    promises.forget(-3)
    assert (promises.holds(-1), promises.size_bytes) == (False, 2)
    assert promises.due(1) == [(-2, b"bb")]


def test_what_follows_is_due_with_the_last_that_waits() -> None:
    promises = Promises()
    promises.promise(1, [(-1, b"a")])
    promises.promise(2, [(-1, b"b")])
    promises.follow(-1, b"c")
    assert promises.due(1) == [(-1, b"a")]
    assert promises.due(2) == [(-1, b"b"), (-1, b"c")]
