"""What machines hand over: journals, images, QEMU's messages, a guest's memory, the security module, KMS; and answers to the SDK."""

import base64
import contextlib
import json
import os
import select
import socket
import struct
import zlib
from datetime import UTC, datetime
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ledgerd.enclave import nsm
from ledgerd.enclave.kms import calls, cms, sealed
from ledgerd.enclave.kms.calls import DataKey, parse_key_arn
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError
from ledgerd.network.client.attempts import Received, error_of
from ledgerd.network.client.values import Answer, says_committed
from ledgerd.node import journal
from ledgerd.node.image import describe, eif
from ledgerd.node.image import signature as image_signature
from ledgerd.node.image.errors import EifError
from ledgerd.node.journal import Record
from ledgerd.node.simulator.envelope import envelope
from ledgerd.node.vm.device import Device
from ledgerd.node.vm.errors import GuestError
from ledgerd.node.vm.rings import Memory, Queue, Region
from ledgerd.node.vm.vhost import Monitor
from support import images
from support.fuzzing.laws import Bound, BrokenLaw, Maker, Target
from support.images import with_checksum
from support.virtio import CREDIT_REQUEST, DATA, GUEST_BASE, MEMORY_BYTES, REQUEST, SHUTDOWN, USER_BASE, Guest, Packet, queue_places

_JSON_BOMBS: Final = [b"[" * 60_000, b'{"a":' * 60_000, b"9" * 60_000]


# A node's disk.


def _journal() -> Target:
    """A journal, perhaps of another node; the first byte says whether somebody made its checksums right again."""
    tag = bytes(range(16))
    records = [
        Record(1, 0, 0, [b"entry 1", b"entry 2"]),
        Record(2, 2, 1, []),
        Record(3, 2, 2, [b"x" * 5_000, b""]),
        Record(4, 1, 1, [b"y"]),
    ]
    encoded = [journal.encode(record, tag) for record in records]
    genuine = set(map(_plain, records))

    def judge(data: bytes) -> bool:
        made_right = bool(data and data[0] & 1)
        content = _with_sums(data[1:]) if made_right else data[1:]
        found = list(journal.decode(content))
        for number, record in enumerate(found):
            if number and record.number != found[number - 1].number + 1:
                raise BrokenLaw("records that do not follow each other")
            if journal.encode(record, content[4:20])[: _HEADER_BYTES + journal.payload_bytes(record)] not in content:
                raise BrokenLaw("a record that does not stand there")
            if not made_right and _plain(record) not in genuine:
                raise BrokenLaw("a changed record is read")
        return bool(found)

    whole = b"".join(encoded) + bytes(3 * journal.BLOCK_BYTES)
    seeds = [b"\0" + whole, b"\1" + whole, b"\1" + encoded[3] + encoded[0]]
    huge = journal.MAGIC + tag + struct.pack(">IIQQQI", 0, 1 << 31, 1, 0, 0, 1 << 31)
    bombs = [b"\1" + huge + bytes(1 << 20), b"\1" + journal.encode(Record(1, 0, 0, [b""] * 100_000), tag)]
    return Target("journal", seeds, judge, tokens=[journal.MAGIC, journal.MAGIC + tag], bombs=bombs, accepts_most=True)


_HEADER_BYTES: Final = 56


def _plain(record: Record) -> tuple[int, int, int, tuple[bytes, ...]]:
    return record.number, record.base, record.committed, tuple(record.entries)


def _with_sums(data: bytes) -> bytes:
    """As an attacker would: sums of what stands there, wherever a record seems to begin."""
    changed = bytearray(data)
    for at in range(0, len(changed), journal.BLOCK_BYTES):
        size = int.from_bytes(changed[at + 24 : at + 28], "big")
        if changed[at : at + 4] == journal.MAGIC and at + _HEADER_BYTES + size <= len(changed):
            checksum = zlib.crc32(bytes(changed[at + 24 : at + _HEADER_BYTES + size]), zlib.crc32(bytes(changed[at + 4 : at + 20])))
            changed[at + 20 : at + 24] = checksum.to_bytes(4, "big")
    return bytes(changed)


# Images.


def _image(**options: Any) -> bytes:
    given: dict[str, Any] = {"metadata": {"ImageName": "x", "Build": [1, None]}, **options}
    return eif.write(b"kernel" * 20, "console=ttyS0 reboot=k", [b"platform" * 9, b"ours" * 7], **given)


def _eif() -> Target:
    """An image from anybody, described; the first byte says whether its checksum was made right again."""
    certificate, key = images.make_signer(ec.SECP384R1())
    section = image_signature.sign(eif.read(_image()).measure().pcr0, certificate, key)
    now = datetime(2026, 11, 1, tzinfo=UTC)

    def judge(data: bytes) -> bool:
        content = data[1:]
        if data and data[0] & 1 and len(content) > 548:
            content = with_checksum(content)
        try:
            image = eif.read(content)
            fields, warnings = describe.describe(image, now)
        except EifError:
            return False
        json.dumps([fields, warnings], ensure_ascii=False).encode()
        with contextlib.suppress(EifError, IntegrityError):
            describe.registers(image)
        if sum(12 + len(part.data) for part in image.sections) + 548 != len(content):
            raise BrokenLaw("bytes of an image that belong to no section")
        return True

    whole = [_image(), _image(signature=section), _image(metadata=None, aarch64=True)]
    seeds = [*(b"\1" + image for image in whole), b"\0" + whole[1]]
    # A certificate and a signature are written as arrays of numbers, so each of their bytes becomes an object.
    return Target(
        "eif", seeds, judge, tokens=[b"\x00\x05\x00\x00", b"signing_certificate"], bound=Bound(memory_bytes=2 << 20, memory_factor=100)
    )


def _image_section() -> Target:
    """The signature section alone, which sees more than half of nothing else."""
    certificate, key = images.make_signer(ec.SECP384R1())
    own = image_signature.load_certificate(certificate).public_key()
    pcr0 = b"\x10" * 48
    seed = image_signature.sign(pcr0, certificate, key)

    def judge(data: bytes) -> bool:
        if len(data) > eif.SIGNATURE_BYTES_MAX:
            return False  # refused before
        try:
            found = image_signature.read(data)
            image_signature.verify(found, pcr0)
        except (EifError, IntegrityError):
            return False
        if found.certificate.public_key() != own:  # PCR8 measures the rest of the certificate, which nobody verifies
            raise BrokenLaw("another signer is believed")
        return True

    return Target("image-signature", [seed], judge, bound=Bound(memory_bytes=2 << 20, memory_factor=100))


# A virtual machine.


class _Vsock:
    """A device whose guest has opened one stream, with all that the guest's memory then holds up to its buffers."""

    def __init__(self) -> None:
        self.guest = Guest()
        self.guest.offer_buffers(4)
        self.rings = bytes(self.guest.memory[0x1000:0x23000])

    def run(self, rings: bytes, packets: bytes) -> int:
        """Lay memory out, let the device work, and say how many packets came to its end."""
        guest, memory = self.guest, self.guest.memory
        memory[0x1000:0x23000] = rings
        memory[1 << 20 : (1 << 20) + len(packets)] = packets
        ends: list[socket.socket] = []
        epoll = select.epoll()

        def connect(port: int) -> socket.socket | None:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            ends.append(ours)
            return theirs

        device = Device(16, connect, epoll)
        try:
            region = Memory([Region(GUEST_BASE, USER_BASE, memory)])
            device.receive = Queue(region, guest.size, **queue_places(guest.receive))
            device.transmit = Queue(region, guest.size, **queue_places(guest.transmit))
            for _ in range(2):
                device.work()
                for end in ends:
                    with contextlib.suppress(OSError):
                        end.send(b"from the host")
                for descriptor, events in epoll.poll(0):
                    device.woken(descriptor, events)
            return len(ends)
        finally:
            device.close()
            epoll.close()
            for end in ends:
                end.close()


def _vsock() -> Target:
    """What a guest puts into its queues: the first 2,048 bytes lie over the rings for sending, the rest are the packets themselves."""
    rig = _Vsock()
    table = 0x21000 - 0x1000

    def seed(*packets: Packet) -> bytes:
        data, at = b"", 0
        ring = bytearray(2_048)
        for number, packet in enumerate(packets):
            encoded = packet.encode()
            struct.pack_into("<QIHH", ring, 16 * number, GUEST_BASE + (1 << 20) + at, len(encoded), 0, 0)
            struct.pack_into("<H", ring, rig.guest.transmit.available - 0x21000 + 4 + 2 * number, number)
            data += encoded
            at += len(encoded)
        struct.pack_into("<H", ring, rig.guest.transmit.available - 0x21000 + 2, len(packets))
        return bytes(ring) + data

    def judge(data: bytes) -> bool:
        ring, packets = data[:2_048].ljust(2_048, b"\0"), data[2_048 : 2_048 + (1 << 19)]
        rings = rig.rings[:table] + ring + rig.rings[table + 2_048 :]
        try:
            return rig.run(rings, packets) > 0
        except GuestError:
            return False

    opening = Packet(REQUEST, 1024, 7000)
    seeds = [
        seed(opening, Packet(DATA, 1024, 7000, b"hello"), Packet(SHUTDOWN, 1024, 7000, flags=3)),
        seed(opening, Packet(CREDIT_REQUEST, 1024, 7000), Packet(REQUEST, 1025, 7000), Packet(DATA, 1024, 7000, b"x" * 3_000)),
    ]
    return Target("vsock", seeds, judge, bound=Bound(memory_bytes=2 << 20), accepts_most=True)


def _vhost() -> Target:
    """QEMU's messages, one after the other; with each comes a descriptor of the guest's memory."""
    memory = os.memfd_create("guest")
    os.ftruncate(memory, MEMORY_BYTES)

    def message(request: int, payload: bytes, flags: int = 1) -> bytes:
        return struct.pack("=III", request, flags, len(payload)) + payload

    region = message(5, struct.pack("=II4Q", 1, 0, GUEST_BASE, MEMORY_BYTES, USER_BASE, 0))
    ring = b"".join(
        (
            message(8, struct.pack("=II", 0, 16)),
            message(10, struct.pack("=II", 0, 0)),
            message(9, struct.pack("=IIQQQQ", 0, 0, USER_BASE + 0x1000, USER_BASE + 0x2000, USER_BASE + 0x3000, 0)),
            message(12, struct.pack("=Q", 0)),
            message(13, struct.pack("=Q", 0)),
            message(18, struct.pack("=II", 0, 1)),
            message(11, struct.pack("=II", 0, 0)),
        )
    )
    hello = (
        message(1, b"")
        + message(15, b"")
        + message(3, b"")
        + message(24, struct.pack("=III8x", 0, 8, 0))
        + message(2, struct.pack("=Q", 1 << 30))
    )

    def judge(data: bytes) -> bool:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        epoll = select.epoll()
        monitor = Monitor(theirs, 16, epoll)
        accepted = False
        try:
            at = 0
            while at < len(data) and at < 16_384:
                size = 12 + int.from_bytes(data[at + 8 : at + 12], "little")
                part = data[at : at + min(size, 8_192)]
                bells = (
                    [os.eventfd(0, os.EFD_NONBLOCK)] if int.from_bytes(data[at : at + 4], "little") in (12, 13, 14) else [os.dup(memory)]
                )
                try:
                    socket.send_fds(ours, [part], bells if part[0] in (5, 12, 13, 14) else [])
                except BlockingIOError:
                    break
                finally:
                    for bell in bells:
                        os.close(bell)
                at += len(part)
            ours.shutdown(socket.SHUT_WR)
            while monitor.handle():
                accepted = True
        except (GuestError, OSError):
            accepted = False
        finally:
            monitor.close()
            epoll.close()
            ours.close()
        return accepted

    seeds = [hello + region + ring, hello + region, region + ring + region]
    return Target("vhost", seeds, judge, bound=Bound(memory_bytes=1 << 20), accepts_most=True)


# The security module, and KMS.


class _Module:
    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def request(self, request: bytes) -> bytes:
        return self._answer


def _nsm_answer() -> Target:
    """What stands behind `/dev/nsm`, or a simulator's socket, answers; the first byte says to what."""
    asked: list[tuple[Any, Any]] = [
        (lambda module: nsm.attestation(module, user_data=b"u", nonce=b"n", public_key=b"k"), {"Attestation": {"document": b"document"}}),
        (nsm.get_random, {"GetRandom": {"random": bytes(range(256))}}),
        (
            nsm.describe,
            {
                "DescribeNSM": {
                    "version_major": 1,
                    "version_minor": 0,
                    "version_patch": 0,
                    "module_id": "i-1-enc1",
                    "max_pcrs": 32,
                    "locked_pcrs": [0, 1, 2],
                    "digest": "SHA384",
                }
            },
        ),
        (lambda module: nsm.describe_pcr(module, 3), {"DescribePCR": {"lock": True, "data": bytes(48)}}),
        (lambda module: nsm.extend_pcr(module, 16, b"data"), {"ExtendPCR": {"data": b"\x01" * 48}}),
        (lambda module: nsm.lock_pcr(module, 16), "LockPCR"),
        (lambda module: nsm.measure_configuration(module, b"digest"), {"Error": "ReadOnlyIndex"}),
    ]

    def judge(data: bytes) -> bool:
        ask, _ = asked[data[0] % len(asked)] if data else asked[0]
        try:
            ask(_Module(data[1:]))
        except nsm.NsmError:
            return True  # a refusal of the module's own
        except FormatError:
            return False
        return True

    bombs = [b"\0" + bomb for bomb in (b"\x81" * 12_000, b"\x9f" * 12_000, b"\xbb" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, bytes(20_000))]
    seeds = [bytes((number,)) + cbor2.dumps(answer) for number, (_, answer) in enumerate(asked)]
    return Target("nsm-answer", seeds, judge, tokens=[b"\x65Error", b"\x6cInvalidIndex"], bombs=bombs)


_KEY: Final = rsa.generate_private_key(65537, 2048)
_ARN: Final = parse_key_arn("arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555")


def _kms_envelope() -> Target:
    """The envelope in KMS's answer, BER."""
    seeds = [envelope(bytes(range(32)), _KEY.public_key(), primitive=primitive) for primitive in (True, False)]

    def judge(data: bytes) -> bool:
        try:
            cms.open_envelope(cms.read(data), _KEY)
        except (FormatError, IntegrityError):
            return False
        return True  # CBC authenticates nothing, so its content may have changed: KMS's TLS vouches for it

    bombs = [
        b"\x30\x80" * 16_000,
        b"\x30\x84\x00\x00\x7f\xf0" + b"\x04\x00" * 16_000,
        b"\x24\x80" + b"\x04\x01a" * 10_000,
        b"\x04\x84\xff\xff\xff\xff",
    ]
    return Target("kms-envelope", seeds, judge, tokens=[b"\x30\x80", b"\x24\x80", b"\0\0", b"\x04\x82"], bombs=bombs)


def _kms_answer() -> Target:
    """An answer of KMS, or of whatever answers in its place; the first byte says with which status."""
    call = calls.generate_data_key(_ARN, {"ledgerd:purpose": "test"})
    made = base64.b64encode(envelope(bytes(range(32)), _KEY.public_key(), primitive=True)).decode()
    right = {"KeyId": _ARN.text, "CiphertextBlob": base64.b64encode(b"wrapped").decode(), "CiphertextForRecipient": made, "Plaintext": ""}
    refusal = {"__type": "com.amazonaws.kms#AccessDeniedException", "message": "not authorised"}
    statuses = (200, 400, 500, 204)

    def judge(data: bytes) -> bool:
        status = statuses[data[0] % len(statuses)] if data else 200
        try:
            found = calls.read_answer(call, status, data[1:], _KEY)
        except LedgerdError:
            return False
        if not isinstance(found, DataKey) or len(found.plaintext) != 32:
            raise BrokenLaw("a data key of another size")
        return True

    seeds = [b"\0" + json.dumps(right).encode(), b"\1" + json.dumps(refusal).encode()]
    tokens = [b"null", b"[]", b'"\\ud800"', b'"Plaintext": "eA==",', b'"__type": 5,']
    return Target(
        "kms-answer", seeds, judge, tokens=tokens, bombs=[b"\0" + bomb for bomb in _JSON_BOMBS], bound=Bound(memory_bytes=2 << 20)
    )


def _kms_sealed() -> Target:
    """A sealed secret that a host gives back."""
    key = DataKey(bytes(range(32)), b"wrapped by KMS")
    binding = sealed.bind(_ARN, "tls:ledger.example.org", b"the service's public key")
    blob = sealed.seal(key, binding, b"a private key", 1_790_000_000_000)

    def judge(data: bytes) -> bool:
        try:
            opened = sealed.open_blob(sealed.read(data), binding, key.plaintext)
        except (FormatError, IntegrityError):
            return False
        if opened != (b"a private key", 1_790_000_000_000):
            raise BrokenLaw("a changed secret opens")
        return True

    return Target("kms-sealed", [blob], judge, bombs=[b"\xa7" * 100_000, b"\xbb" + b"\xff" * 8, b"\x5b" + b"\xff" * 8])


# The SDK.


def _client_answer() -> Target:
    """An answer of a node to the SDK: a line for each of its headers, an empty line, the body; the first byte says the status."""
    seeds = [
        b"\0x-ms-ccf-transaction-id: 2.7\npreference-applied: committed\nx-ledgerd-receipt: 0oRY\n\n{}",
        b'\1\n\n{"error": {"code": "InvalidInput", "message": "no", "details": [{"code": "a"}]}}',
    ]
    statuses = (200, 400, 503, 307)

    def judge(data: bytes) -> bool:
        status = statuses[data[0] % len(statuses)] if data else 200
        head, _, body = data[1:].partition(b"\n\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\n") if ": " in line)
        answer = Answer(status, headers, body, says_committed(headers))
        code, message, details = error_of(Received(status, headers, body))
        if not type(code) is type(message) is str or not all(type(item) is dict for item in details):
            raise BrokenLaw("an error of other types")
        accepted = True
        for read in (lambda: answer.transaction_id, lambda: answer.receipt, answer.json):
            try:
                read()
            except FormatError:
                accepted = False
        return accepted

    tokens = [b'"error"', b'"details": {}', b"null", b"\xb2.1", b"x-ledgerd-receipt: \xe9", b"committed, respond-async"]
    return Target("client-answer", seeds, judge, tokens=tokens, bombs=[b"\0\n\n" + bomb for bomb in _JSON_BOMBS], accepts_most=True)


MAKERS: Final[dict[str, Maker]] = {
    "journal": _journal,
    "eif": _eif,
    "image-signature": _image_section,
    "vsock": _vsock,
    "vhost": _vhost,
    "nsm-answer": _nsm_answer,
    "kms-envelope": _kms_envelope,
    "kms-answer": _kms_answer,
    "kms-sealed": _kms_sealed,
    "client-answer": _client_answer,
}
