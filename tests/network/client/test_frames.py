"""`ledgerd/1` frames: every cut of the stream gives the same frames, and nonsense is refused."""

import msgpack
import pytest

from ledgerd.ledger.errors import FormatError
from ledgerd.network.client.frames import FRAME_SIZE_BYTES_MAX, Decoder, Encoder, Frame


def frame(*fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return len(packed).to_bytes(4, "big") + packed


STREAM = frame(1, 204, {"x-ms-ccf-transaction-id": "2.5"}, b"") + frame(0, 200, {}, b"body" * 50) + frame(2, 404, {"a": "b"}, b"{}")


def test_every_cut_gives_the_same_frames() -> None:
    whole = Decoder().feed(STREAM)
    assert [number for number, *_ in whole] == [1, 0, 2]
    for cut in range(len(STREAM) + 1):
        decoder = Decoder()
        assert decoder.feed(STREAM[:cut]) + decoder.feed(STREAM[cut:]) == whole
    decoder = Decoder()
    single: list[Frame] = []
    for byte in STREAM:
        single += decoder.feed(bytes((byte,)))
    assert single == whole


@pytest.mark.parametrize(
    "bad",
    [
        frame(1, 204, {}),
        frame(1, 204, {}, b"", b"more"),
        frame("1", 204, {}, b""),
        frame(1, "204", {}, b""),
        frame(1, 204, [], b""),
        frame(1, 204, {}, "text"),
        frame(1, 204, {"a": 1}, b""),
        frame(1, 204, {1: "a"}, b""),
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x07" + msgpack.packb((1, 2, {}, b"")) + b"\x00",
        (FRAME_SIZE_BYTES_MAX + 1).to_bytes(4, "big"),
        # Two frames whose lengths are right together only.
        b"\x00\x00\x00\x05" + msgpack.packb((1, 2, {}, b"")) + b"\x00\x00\x00\x07" + msgpack.packb((2, 2, {}, b"")),
        b"\x00\x00\x00\x0a" + msgpack.packb((1, 2, {}, b"")) + b"\x00\x00\x00\x06" + msgpack.packb((2, 2, {}, b"")),
    ],
)
def test_what_is_no_answer_is_refused(bad: bytes) -> None:
    with pytest.raises(FormatError):
        Decoder().feed(bad)


def test_the_reason_for_which_a_node_ends_the_session_is_kept() -> None:
    with pytest.raises(FormatError, match="SessionCapExhausted"):
        Decoder().feed(frame(None, 503, {}, b'{"error": {"code": "SessionCapExhausted"}}'))


def test_requests_are_length_and_array_one_after_the_other() -> None:
    pieces: list[bytes] = []
    encoder = Encoder()
    sizes = [encoder.add(pieces, number, "PUT", "/app/records/1?x=y", {"content-type": "text/plain"}, b"v") for number in (7, 1 << 40)]
    data = b"".join(pieces)
    assert len(data) == sum(sizes)
    for number, size in zip((7, 1 << 40), sizes, strict=True):
        assert int.from_bytes(data[:4], "big") == size - 4
        assert msgpack.unpackb(data[4:size]) == [number, "PUT", "/app/records/1?x=y", {"content-type": "text/plain"}, b"v"]
        data = data[size:]


def test_what_is_wrong_after_good_frames_spoils_them_too() -> None:
    with pytest.raises(FormatError):
        Decoder().feed(STREAM + frame(3, "204", {}, b""))


def test_a_long_frame_comes_in_many_pieces_beside_short_ones() -> None:
    body = bytes(range(256)) * 1000
    data = STREAM + frame(9, 200, {}, body) + STREAM
    decoder = Decoder()
    found = [one for at in range(0, len(data), 1000) for one in decoder.feed(data[at : at + 1000])]
    assert [number for number, *_ in found] == [1, 0, 2, 9, 1, 0, 2]
    assert found[3] == (9, 200, {}, body)
