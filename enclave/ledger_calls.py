"""What scripts may ask of the ledger: `ccf.consensus`, `ccf.historical`, and `ccf.historicalState` where an endpoint's mode gives it.

A Job names the functions that it may call. Every one of an application is to name `APPLICATION_CALLS`, for libraries look at them when they
are loaded; a run of an endpoint with mode `historical` also `HISTORICAL_STATE`, after its handler has asked for `context.historical`, so
that the state is at hand. Governance is given none of them: what members decide must follow from the tables alone.

States cross to a worker as one value, bytes, which the prelude takes apart as far as the script looks at them:

    u32 (big-endian) length of a JSON text, the text, then what it speaks of, back to back
    {"signatures": [{"cert", "node_id", "signature"}...],
     "states": [[transaction id, its seqno, index of its signature, length of its receipt, length of what follows it,
                 {map: [length of key, length of value or -1, ...]}]...]}

of each state in order: the rest of its receipt as JSON, then keys and values of its maps. -1 is a key that was removed.
Not here: reading the ledger (`enclave.historical`), taking states apart (`prelude.js`).
"""

import json
from typing import Any, Final

from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.historical import Historical
from ledgerd.enclave.scripts.run import Call
from ledgerd.enclave.states import HistoricalState, StatesWanted, is_readable
from ledgerd.ledger.errors import RequestError
from ledgerd.ledger.ids import Seqno, TransactionId, View

APPLICATION_CALLS: Final = (
    "consensus.getLastCommittedTxId",
    "consensus.getStatusForTxId",
    "consensus.getViewForSeqno",
    "historical.getStateRange",
    "historical.dropCachedStates",
)
HISTORICAL_STATE: Final = "historical.state"

NUMBER_MAX: Final = (1 << 53) - 1  # that JavaScript holds exactly
RANGE_FOR_SCRIPTS_BYTES_MAX: Final = 24 << 20  # one message to a worker, and a part of the engine's memory
EXPIRY_SECONDS: Final = 60  # where a script does not say

_SIGNATURE_FIELDS: Final = ("cert", "node_id", "signature")


class PackedStates:
    """States as bytes for scripts, packed as they come. Fulfils `historical.Kept`."""

    def __init__(self) -> None:
        self._signatures: dict[int, int] = {}  # by the signed seqno
        self._shown: list[dict[str, Any]] = []
        self._heads: list[list[Any]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._packed: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """About the memory that they take."""
        return self._size

    def add(self, states: list[HistoricalState]) -> None:
        """Pack the next states. Raises: RequestError: They are too much for a script."""
        for state in states:
            self._add(state)
        if self._size > RANGE_FOR_SCRIPTS_BYTES_MAX:
            raise RequestError(
                400,
                "RangeTooLarge",
                f"Up to {states[-1].transaction_id} the range has more than the {RANGE_FOR_SCRIPTS_BYTES_MAX} bytes that are handed to a "
                "script at once; ask for fewer entries",
            )

    def _add(self, state: HistoricalState) -> None:
        raw = state.record.raw
        assert raw is not None, "this service writes both signatures"
        signed = raw.transaction_id.seqno
        number = self._signatures.get(signed)
        if number is None:
            number = self._signatures[signed] = len(self._shown)
            receipt = state.receipt
            self._shown.append({name: receipt[name] for name in _SIGNATURE_FIELDS})
            self._size += len(raw.certificate) + 300
        text = _rest_of_receipt(state)
        parts = [text]
        maps: dict[str, list[int]] = {}
        for name, writes in state.writes.items():
            if is_readable(name):
                lengths = maps[name] = []
                for key, value in writes.items():
                    lengths += (len(key), -1 if value is None else len(value))
                    parts += (key, value or b"")
        data = b"".join(parts)
        self._heads.append([str(state.transaction_id), state.transaction_id.seqno, number, len(text), len(data) - len(text), maps])
        self._parts.append(data)
        self._size += len(self._parts[-1]) + 200 + 100 * len(maps)

    def packed(self) -> bytes:
        """All of them, once the last has come."""
        if self._packed is None:
            text = json.dumps({"signatures": self._shown, "states": self._heads}, separators=(",", ":"), ensure_ascii=True).encode()
            self._packed = b"".join((len(text).to_bytes(4, "big"), text, *self._parts))
            self._size += len(text)
            self._parts.clear()
            self._heads.clear()
        return self._packed


def _rest_of_receipt(state: HistoricalState) -> bytes:
    """A receipt as JSON, but for what it shares with others. Written by hand: there are thousands, of a thousand characters each."""
    if state.is_signature:
        receipt = state.receipt
        rest = {name: value for name, value in receipt.items() if name not in _SIGNATURE_FIELDS}
        return json.dumps({**rest, "root_hex": receipt["leaf"]}).encode()  # CCF's scripts find the root under this name
    digest, evidence, claims = state.leaf
    proof = ",".join([f'{{"{"left" if left else "right"}":"{sibling.hex()}"}}' for left, sibling in state.path])
    return (
        f'{{"is_signature_transaction":false,"leaf_components":{{"write_set_digest":"{digest.hex()}","commit_evidence":"{evidence}",'
        f'"claims_digest":"{claims.hex()}"}},"proof":[{proof}]}}'
    ).encode()


def pack(states: list[HistoricalState]) -> bytes:
    """States as the value that a script is given. Raises: RequestError: They are too much."""
    packed = PackedStates()
    packed.add(states)
    return packed.packed()


def calls(historical: Historical) -> dict[str, Call]:
    """The functions, by their names below `ccf.`; each raises ValueError with what to tell the script."""

    def get_state_range(context: Context, arguments: list[Any]) -> Any:
        numbers = _numbers(arguments, 3, 4)
        expiry = numbers[3] if len(numbers) == 4 else EXPIRY_SECONDS
        try:
            kept = historical.state_range(numbers[0], (numbers[1], numbers[2]), expiry, PackedStates)
        except RequestError as error:
            context.range_refusal = error
            raise ValueError(error.message) from None
        assert kept is None or isinstance(kept, PackedStates), "nobody else keeps states under handles"
        return None if kept is None else kept.packed()

    def drop_cached_states(context: Context, arguments: list[Any]) -> Any:
        return historical.drop(_numbers(arguments, 1)[0])

    def state(context: Context, arguments: list[Any]) -> Any:
        _numbers(arguments, 0)
        try:
            return pack([context.historical])
        except (RequestError, StatesWanted):
            raise ValueError("there is no historical state at hand") from None

    def last_committed(context: Context, arguments: list[Any]) -> Any:
        _numbers(arguments, 0)
        view, seqno = context.committed
        return {"view": view, "seqno": seqno}

    def status(context: Context, arguments: list[Any]) -> Any:
        view, seqno = _numbers(arguments, 2)
        return context.status_of(TransactionId(View(view), Seqno(seqno)))

    def view_of(context: Context, arguments: list[Any]) -> Any:
        return context.view_of(_numbers(arguments, 1)[0])

    functions = (last_committed, status, view_of, get_state_range, drop_cached_states, state)
    return dict(zip((*APPLICATION_CALLS, HISTORICAL_STATE), functions, strict=True))


def _numbers(arguments: list[Any], *counts: int) -> list[int]:
    """Whole numbers, from 0 on. Raises: ValueError: They are others, or not as many as one of `counts`."""
    if len(arguments) not in counts:
        raise ValueError(f"Passed {len(arguments)} arguments, but expected {counts[-1]}")
    numbers = []
    for argument in arguments:
        number = argument
        if type(argument) is float and argument.is_integer():
            number = int(argument)
        if type(number) is not int or not 0 <= number <= NUMBER_MAX:
            raise ValueError("Invalid argument: must be a whole number, and not negative")
        numbers.append(number)
    return numbers
