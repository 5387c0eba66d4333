"""What a broken connection tells: sorted by what can have left. Shared by all ways of sending; opens nothing."""

import ssl
from collections.abc import Iterator
from typing import Final

from ledgerd.network.client.attempts import Lost, Trouble

RECEIVE_BYTES: Final = 1 << 14  # a TLS record at its largest, which is all that one read can give; a larger buffer only costs
CONNECT_SECONDS_MAX: Final = 2.0  # a host that is gone answers nothing at all; do not spend a whole attempt on it

ELSEWHERE: Final = Lost(Trouble.CUT, "another node has to be asked")


def cut(error: BaseException, timeout: float) -> Lost:
    """Say what became of a connection that was in use."""
    return Lost(Trouble.CUT, f"no answer within {timeout:.1f} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__)


def lost(error: BaseException, *, sent: bool) -> Lost:
    """Say what an error of the transport means for the request.

    Args:
        sent: Something of the request may have left before the error; no matter where the node turns out to be an impostor.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Lost(Trouble.IMPOSTOR, f"its certificate is not endorsed by the pinned service: {cause.verify_message}")
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            return Lost(Trouble.IMPOSTOR, "its certificate is not endorsed by the pinned service")
    return Lost(Trouble.CUT if sent else Trouble.NOT_SENT, str(error) or type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
