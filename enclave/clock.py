"""Wall-clock time that the host cannot set: the timestamp of a fresh attestation document, carried on by the monotonic clock.

Used for certificates' dates and for judging certificates and tokens, never for consensus. A new document now and then (`CLOCK_SECONDS`)
catches up with what the monotonic clock has missed, by drifting or because the machine stood still.
"""

from typing import Final

CLOCK_SECONDS: Final = 600.0  # between documents that are asked for to learn the time; one costs the security module milliseconds


class AttestedClock:
    """Milliseconds since 1970, known once the first document of this enclave's own has come."""

    __slots__ = ("_offset_ms",)

    def __init__(self) -> None:
        self._offset_ms: float | None = None

    def set(self, timestamp_ms: int, now: float) -> None:
        """Set from a document's timestamp at monotonic time `now` (seconds). Never goes back."""
        offset = timestamp_ms - now * 1000
        self._offset_ms = offset if self._offset_ms is None else max(self._offset_ms, offset)

    def milliseconds(self, now: float) -> int:
        """Attested time at monotonic time `now` (seconds)."""
        assert self._offset_ms is not None, "the enclave attests itself before it does anything that needs a date"
        return int(self._offset_ms + now * 1000)
