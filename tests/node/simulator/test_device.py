"""The device's protocol: our client against our simulator, and both against bytes written by hand."""

import hashlib
import socket
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave import nsm
from ledgerd.enclave.nsm import NsmError
from ledgerd.ledger.attestation.nitro import decode
from ledgerd.ledger.errors import FormatError
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import make_root
from ledgerd.node.simulator.server import FRAME_SIZE_BYTES_MAX, Server

ROOT = make_root()


@pytest.fixture
def device() -> SimulatedNsm:
    return SimulatedNsm(ROOT, {0: b"\xa0" * 48})


def reason(device: nsm.Nsm, ask: Any, *arguments: Any) -> str:
    with pytest.raises(NsmError) as refusal:
        ask(device, *arguments)
    return refusal.value.reason


# Client and simulator.


def test_the_device_describes_itself(device: SimulatedNsm) -> None:
    assert nsm.describe(device) == nsm.Description((1, 0, 0), device.module_id, 32, tuple(range(16)), "SHA384")


def test_boot_pcrs_are_locked_and_the_others_are_not(device: SimulatedNsm) -> None:
    assert nsm.describe_pcr(device, 0) == nsm.Pcr(True, b"\xa0" * 48)
    assert nsm.describe_pcr(device, 15).locked
    assert nsm.describe_pcr(device, 16) == nsm.Pcr(False, bytes(48))
    for index in (0, 15):
        assert reason(device, nsm.extend_pcr, index, b"x") == "ReadOnlyIndex"
        assert reason(device, nsm.lock_pcr, index) == "ReadOnlyIndex"


def test_extending_hashes_the_old_value_and_the_raw_data(device: SimulatedNsm) -> None:
    first = hashlib.sha384(bytes(48) + b"hello").digest()
    assert nsm.extend_pcr(device, 16, b"hello") == first
    assert nsm.extend_pcr(device, 16, b"") == hashlib.sha384(first).digest()


def test_only_locked_pcrs_are_attested(device: SimulatedNsm) -> None:
    value = nsm.extend_pcr(device, 16, b"hello")
    assert 16 not in decode(nsm.attestation(device, user_data=None, nonce=None, public_key=None)).pcrs
    nsm.lock_pcr(device, 16)
    assert reason(device, nsm.extend_pcr, 16, b"more") == "ReadOnlyIndex"
    assert decode(nsm.attestation(device, user_data=None, nonce=None, public_key=None)).pcrs[16] == value


def test_a_range_locks_every_pcr_below_it(device: SimulatedNsm) -> None:
    nsm.lock_pcrs(device, 18)
    assert nsm.describe(device).locked_pcrs == tuple(range(18))
    nsm.lock_pcrs(device, 3)
    assert nsm.describe(device).locked_pcrs == tuple(range(18))
    nsm.lock_pcrs(device, 32)
    assert nsm.describe(device).locked_pcrs == tuple(range(32))
    assert reason(device, nsm.lock_pcrs, 33) == "InvalidIndex"


@pytest.mark.parametrize("index", [32, 255])
def test_there_are_32_pcrs(device: SimulatedNsm, index: int) -> None:
    assert reason(device, nsm.describe_pcr, index) == "InvalidIndex"
    assert reason(device, nsm.extend_pcr, index, b"") == "InvalidIndex"
    assert reason(device, nsm.lock_pcr, index) == "InvalidIndex"


def test_random_bytes_differ(device: SimulatedNsm) -> None:
    first, second = nsm.get_random(device), nsm.get_random(device)
    assert len(first) == len(second) == 256
    assert first != second


def test_fields_hold_1024_bytes_each_and_no_more(device: SimulatedNsm) -> None:
    full = bytes(1_024)
    assert decode(nsm.attestation(device, user_data=full, nonce=full, public_key=full)).nonce == full
    for name in ("user_data", "nonce", "public_key"):
        fields = {"user_data": None, "nonce": None, "public_key": None, name: bytes(1_025)}
        with pytest.raises(NsmError) as refusal:
            nsm.attestation(device, **fields)
        assert refusal.value.reason == "InputTooLarge"
        assert cbor2.loads(device.request(cbor2.dumps({"Attestation": fields}))) == {"Error": "InputTooLarge"}


def test_a_request_above_the_drivers_limit_is_refused_on_both_sides(device: SimulatedNsm) -> None:
    assert reason(device, nsm.extend_pcr, 16, bytes(0x1000)) == "InputTooLarge"
    assert cbor2.loads(device.request(cbor2.dumps({"ExtendPCR": {"index": 16, "data": bytes(0x1000)}}))) == {"Error": "InputTooLarge"}


@pytest.mark.parametrize(
    "request_",
    [
        "Nothing",
        {},
        {"LockPCR": {}},
        {"LockPCR": {"index": True}},
        {"LockPCR": {"index": "16"}},
        {"LockPCRs": {"range": None}},
        {"ExtendPCR": {"index": 16}},
        {"ExtendPCR": {"data": b""}},
        {"ExtendPCR": {"index": 16, "data": 1}},
        {"DescribePCR": {"index": 1.0}},
        {"DescribePCR": 1},
        {"DescribePCR": {"index": 1}, "LockPCR": {"index": 16}},
        {"Attestation": {"nonce": "text"}},
        ["GetRandom"],
        1,
        None,
    ],
)
def test_what_is_no_request_is_an_invalid_operation_and_changes_nothing(device: SimulatedNsm, request_: Any) -> None:
    assert cbor2.loads(device.request(cbor2.dumps(request_))) == {"Error": "InvalidOperation"}
    assert nsm.describe(device).locked_pcrs == tuple(range(16))


def test_an_empty_public_key_is_refused(device: SimulatedNsm) -> None:
    assert cbor2.loads(device.request(cbor2.dumps({"Attestation": {"public_key": b""}}))) == {"Error": "InvalidArgument"}


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_the_device_answers_anything(data: bytes) -> None:
    answer = cbor2.loads(SHARED.request(data))
    assert answer == {"Error": "InvalidOperation"} or isinstance(answer, (dict, str))


SHARED = SimulatedNsm(ROOT, {})


# The client against bytes written by hand.


class Scripted:
    """A device with one answer; remembers what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    def request(self, request: bytes) -> bytes:
        self.asked.append(request)
        return self.answer


@pytest.mark.parametrize(
    ("ask", "arguments", "request_", "answer", "result"),
    [
        (nsm.get_random, (), "694765745261 6e646f6d", "a16947657452616e646f6da16672616e646f6d4101", b"\x01"),
        (nsm.lock_pcr, (16,), "a1674c6f636b504352a165696e64657810", "674c6f636b504352", None),
        (nsm.lock_pcrs, (17,), "a1684c6f636b50435273a16572616e676511", "684c6f636b50435273", None),
        (
            nsm.describe_pcr,
            (3,),
            "a16b4465736372696265504352a165696e64657803",
            "a16b4465736372696265504352a2646c6f636bf564646174615830" + "07" * 48,
            nsm.Pcr(True, b"\x07" * 48),
        ),
        (
            nsm.extend_pcr,
            (16, b"\x01"),
            "a169457874656e64504352a265696e64657810646461746141 01",
            "bf69457874656e64504352bf64646174615830" + "07" * 48 + "ffff",  # indefinite, as newer documents are
            b"\x07" * 48,
        ),
    ],
)
def test_requests_and_answers_are_these_bytes(ask: Any, arguments: tuple[Any, ...], request_: str, answer: str, result: Any) -> None:
    device = Scripted(bytes.fromhex(answer))
    assert ask(device, *arguments) == result
    assert device.asked == [bytes.fromhex(request_)]


def test_absent_fields_of_a_request_are_null() -> None:
    device = Scripted(cbor2.dumps({"Attestation": {"document": b"d"}}))
    assert nsm.attestation(device, user_data=None, nonce=b"n", public_key=None) == b"d"
    assert device.asked == [cbor2.dumps({"Attestation": {"user_data": None, "nonce": b"n", "public_key": None}})]


def test_numbers_that_qemu_writes_in_full_are_read() -> None:
    answer = (
        b"\xa1\x6bDescribeNSM\xa7\x66digest\x66SHA384\x68max_pcrs\x19\x00\x20\x69module_id\x63i-1\x6blocked_pcrs\x81\x18\x00"
        b"\x6dversion_major\x19\x00\x01\x6dversion_minor\x19\x00\x00\x6dversion_patch\x19\x00\x00"
    )
    assert nsm.describe(Scripted(answer)) == nsm.Description((1, 0, 0), "i-1", 32, (0,), "SHA384")


@pytest.mark.parametrize("code", sorted(nsm.ERROR_CODES))
def test_every_error_code_is_a_typed_error(code: str) -> None:
    assert reason(Scripted(cbor2.dumps({"Error": code})), nsm.get_random) == code


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        bytes(0x3001),
        cbor2.dumps("GetRandom"),
        cbor2.dumps({"Error": "Whatever"}),
        cbor2.dumps({"Error": 1}),
        cbor2.dumps({"GetRandom": {}}),
        cbor2.dumps({"GetRandom": {"random": b""}}),
        cbor2.dumps({"GetRandom": {"random": "text"}}),
        cbor2.dumps({"GetRandom": b"x"}),
        cbor2.dumps({"LockPCR": {"random": b"x"}}),
        cbor2.dumps({"GetRandom": {"random": b"x"}, "Error": "Success"}),
        cbor2.dumps({"GetRandom": {"random": b"x"}}) + b"\x00",
        cbor2.dumps(["GetRandom"]),
    ],
)
def test_answers_that_no_device_gives_are_format_errors(answer: bytes) -> None:
    with pytest.raises(FormatError):
        nsm.get_random(Scripted(answer))


@pytest.mark.parametrize(
    ("ask", "arguments", "answer"),
    [
        (nsm.describe_pcr, (0,), {"DescribePCR": {"lock": 1, "data": bytes(48)}}),
        (nsm.describe_pcr, (0,), {"DescribePCR": {"lock": True, "data": bytes(47)}}),
        (nsm.extend_pcr, (16, b""), {"ExtendPCR": {"data": bytes(49)}}),
        (nsm.lock_pcr, (16,), {"LockPCR": {}}),
        (nsm.lock_pcr, (16,), "LockPCRs"),
    ],
)
def test_answers_of_another_shape_are_format_errors(ask: Any, arguments: tuple[Any, ...], answer: Any) -> None:
    with pytest.raises(FormatError):
        ask(Scripted(cbor2.dumps(answer)), *arguments)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_hostile_answers_raise_nothing_but_our_errors(answer: bytes) -> None:
    for ask in (nsm.get_random, nsm.describe):
        with pytest.raises((FormatError, NsmError)):
            ask(Scripted(answer))


# The socket.


class Remote:
    """The enclave's side of a socket, as its runtime has it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(120)

    def request(self, request: bytes) -> bytes:
        self.connection.sendall(len(request).to_bytes(4, "big") + request)
        size = int.from_bytes(self.read(4), "big")
        return self.read(size)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (part := self.connection.recv(size - len(data))):
            data += part
        return data


@pytest.fixture
def server(device: SimulatedNsm) -> Iterator[Server]:
    server = Server(device)
    yield server
    server.close()


def test_the_device_answers_over_a_socket(server: Server) -> None:
    remote = Remote(server.enclave_end)
    assert nsm.describe(remote).module_id == server.nsm.module_id
    document = nsm.attestation(remote, user_data=bytes(1_024), nonce=bytes(1_024), public_key=bytes(1_024))
    assert decode(document).module_id == server.nsm.module_id
    assert reason(remote, nsm.lock_pcr, 0) == "ReadOnlyIndex"


def test_requests_may_come_in_pieces_and_in_a_row(server: Server) -> None:
    remote = Remote(server.enclave_end)
    frame = (10).to_bytes(4, "big") + cbor2.dumps("GetRandom")
    for byte in frame + frame:
        server.enclave_end.sendall(bytes((byte,)))
    for _ in range(2):
        answer = cbor2.loads(remote.read(int.from_bytes(remote.read(4), "big")))
        assert len(answer["GetRandom"]["random"]) == 256


@pytest.mark.parametrize("data", [(FRAME_SIZE_BYTES_MAX + 1).to_bytes(4, "big"), b"\xff" * 4])
def test_a_frame_that_is_too_large_ends_the_connection(server: Server, data: bytes) -> None:
    server.enclave_end.sendall(data)
    assert Remote(server.enclave_end).read(1) == b""


def test_an_enclave_that_dies_in_a_request_ends_the_thread(device: SimulatedNsm) -> None:
    server = Server(device)
    server.enclave_end.sendall(b"\x00\x00")
    server.enclave_end.close()
    server._thread.join(120)
    assert not server._thread.is_alive()
    server.close()
    server.close()


def test_closing_ends_a_waiting_thread(server: Server) -> None:
    server.close()
    assert not server._thread.is_alive()
