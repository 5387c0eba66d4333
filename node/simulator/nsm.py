"""The behaviour of `/dev/nsm`: one request in, one answer out; PCRs, locks, random bytes, documents.

Follows the device where its behaviour was measured, and QEMU's module in what it refuses. It is written against the protocol,
not against `enclave.nsm`, so that each checks the other. Time is an input.
Safe to use from several threads: like the driver, it serves one request after the other.
Not here: certificates (`node.simulator.pki`), sockets (`node.simulator.server`).
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ledgerd.ledger.attestation import items
from ledgerd.ledger.attestation.measurement import PCR_COUNT, PCR_SIZE_BYTES, ZERO, extend, instance_pcr
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.node.simulator.pki import Chain, SimulatedRoot

REQUEST_SIZE_BYTES_MAX: Final = 0x1000
FIELD_SIZE_BYTES_MAX: Final = 1_024
RANDOM_SIZE_BYTES: Final = 256
BOOT_PCRS: Final = 16  # locked from the start; the others are the application's

_PROTECTED: Final = bytes.fromhex("a1013822")  # ES384


class SimulatedNsm:
    """One simulated security module, of one enclave.

    Args:
        root: Whose platform this is.
        pcrs: Measured values, index 0 to 15 to 48 bytes; the others are zero. PCR4 follows from the instance.
        instance_id, enclave_id: Names in AWS's form; default: random ones.
        debug: As with `--debug-mode`: PCR0, 1, 2 and 8 are zero whatever `pcrs` says.
        indefinite: Write the payload as an indefinite map, as AWS does since 2025; else definite, as before.
        clock: Seconds since 1970, as the hypervisor would know them.
    """

    def __init__(
        self,
        root: SimulatedRoot,
        pcrs: Mapping[int, bytes],
        *,
        instance_id: str | None = None,
        enclave_id: str | None = None,
        debug: bool = False,
        indefinite: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        instance_id = instance_id or f"i-{secrets.token_hex(9)[:17]}"
        enclave_id = enclave_id or f"enc{secrets.randbits(61):016x}"
        if any(index not in range(BOOT_PCRS) or len(value) != PCR_SIZE_BYTES for index, value in pcrs.items()):
            raise ConfigurationError("the simulator takes PCRs 0 to 15, of 48 bytes each")
        self.module_id = f"{instance_id}-{enclave_id}"
        self._pcrs = [pcrs.get(index, ZERO) for index in range(PCR_COUNT)]
        if 4 not in pcrs:
            self._pcrs[4] = instance_pcr(instance_id)
        if debug:
            for index in (0, 1, 2, 8):
                self._pcrs[index] = ZERO
        self._locked = [index < BOOT_PCRS for index in range(PCR_COUNT)]
        self._indefinite = indefinite
        self._clock = clock
        self._chain = Chain(root, instance_id, enclave_id)
        self._lock = threading.Lock()

    def request(self, request: bytes) -> bytes:
        """Answer one request. Never raises on what the request says: a device has only its error codes."""
        with self._lock:
            return cbor2.dumps(self._answer(request))

    def _answer(self, request: bytes) -> Any:
        if len(request) > REQUEST_SIZE_BYTES_MAX:
            return {"Error": "InputTooLarge"}
        try:
            message = items.read(request, shortest=False)
        except FormatError:
            return {"Error": "InvalidOperation"}
        name: Any
        arguments: dict[Any, Any] = {}
        if type(message) is str:
            name = message
        elif type(message) is dict and len(message) == 1 and type(next(iter(message.values()))) is dict:
            [(name, arguments)] = message.items()
        else:
            return {"Error": "InvalidOperation"}
        handler = self._HANDLERS.get(name)
        if handler is None:
            return {"Error": "InvalidOperation"}
        return handler(self, arguments)

    def _describe(self, arguments: dict[Any, Any]) -> Any:
        return {
            "DescribeNSM": {
                "version_major": 1,
                "version_minor": 0,
                "version_patch": 0,
                "module_id": self.module_id,
                "max_pcrs": PCR_COUNT,
                "locked_pcrs": [index for index in range(PCR_COUNT) if self._locked[index]],
                "digest": "SHA384",
            }
        }

    def _describe_pcr(self, arguments: dict[Any, Any]) -> Any:
        index = arguments.get("index")
        if type(index) is not int:
            return {"Error": "InvalidOperation"}
        if not 0 <= index < PCR_COUNT:
            return {"Error": "InvalidIndex"}
        return {"DescribePCR": {"lock": self._locked[index], "data": self._pcrs[index]}}

    def _extend_pcr(self, arguments: dict[Any, Any]) -> Any:
        index, data = arguments.get("index"), arguments.get("data")
        if type(index) is not int or type(data) is not bytes:
            return {"Error": "InvalidOperation"}
        if not 0 <= index < PCR_COUNT:
            return {"Error": "InvalidIndex"}
        if self._locked[index]:
            return {"Error": "ReadOnlyIndex"}
        self._pcrs[index] = extend(self._pcrs[index], data)
        return {"ExtendPCR": {"data": self._pcrs[index]}}

    def _lock_pcr(self, arguments: dict[Any, Any]) -> Any:
        index = arguments.get("index")
        if type(index) is not int:
            return {"Error": "InvalidOperation"}
        if not 0 <= index < PCR_COUNT:
            return {"Error": "InvalidIndex"}
        if self._locked[index]:
            return {"Error": "ReadOnlyIndex"}
        self._locked[index] = True
        return "LockPCR"

    def _lock_pcrs(self, arguments: dict[Any, Any]) -> Any:
        below = arguments.get("range")
        if type(below) is not int:
            return {"Error": "InvalidOperation"}
        if not 0 <= below <= PCR_COUNT:
            return {"Error": "InvalidIndex"}
        self._locked[:below] = [True] * below
        return "LockPCRs"

    def _random(self, arguments: dict[Any, Any]) -> Any:
        return {"GetRandom": {"random": secrets.token_bytes(RANDOM_SIZE_BYTES)}}

    def _attest(self, arguments: dict[Any, Any]) -> Any:
        fields = [arguments.get(name) for name in ("public_key", "user_data", "nonce")]
        for value in fields:
            if value is not None and type(value) is not bytes:
                return {"Error": "InvalidOperation"}
            if value is not None and len(value) > FIELD_SIZE_BYTES_MAX:
                return {"Error": "InputTooLarge"}
        if fields[0] == b"":
            return {"Error": "InvalidArgument"}
        return {"Attestation": {"document": self._document(*fields)}}

    def _document(self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None) -> bytes:
        now = self._clock()
        leaf, bundle = self._chain.leaf(datetime.fromtimestamp(now, UTC))
        payload = cbor2.dumps(
            {
                "module_id": self.module_id,
                "digest": "SHA384",
                "timestamp": int(now * 1000),
                "pcrs": {index: self._pcrs[index] for index in range(PCR_COUNT) if self._locked[index]},
                "certificate": leaf.der,
                "cabundle": bundle,
                "public_key": public_key,
                "user_data": user_data,
                "nonce": nonce,
            }
        )
        if self._indefinite:
            payload = b"\xbf" + payload[1:] + b"\xff"  # a9, a map of nine pairs, becomes bf ... ff; maps and lists inside stay definite
        signed = cbor2.dumps(["Signature1", _PROTECTED, b"", payload])
        r, s = decode_dss_signature(leaf.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        return cbor2.dumps([_PROTECTED, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])

    _HANDLERS: Final[dict[str, Callable[["SimulatedNsm", dict[Any, Any]], Any]]] = {
        "DescribeNSM": _describe,
        "DescribePCR": _describe_pcr,
        "ExtendPCR": _extend_pcr,
        "LockPCR": _lock_pcr,
        "LockPCRs": _lock_pcrs,
        "GetRandom": _random,
        "Attestation": _attest,
    }
