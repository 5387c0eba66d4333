"""What a constitution may ask of the enclave that it runs in, beside the maps: `ccf.node` and `ccf.network`, by CCF's names.

Everything here either gives a value or writes through the request's own maps, so it takes effect with the entry or not at all.
Law: arguments come from a script and may be anything; a refusal is a ValueError, which the script sees as an exception.
Not here: keys of tokens (`enclave.governing.jwt_keys`), functions without state, which run in the worker (`enclave.runtime.prelude`).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.governing import jwt_keys
from ledgerd.enclave.governing.renewal import OPENING, REKEY, SHARES, Renewal
from ledgerd.enclave.keys import CLOCK_SLACK, ServiceKeys, at_milliseconds
from ledgerd.enclave.ledger_secrets import LedgerSecret
from ledgerd.enclave.scripts.run import Call
from ledgerd.governance import tables

DAYS_MAX: Final = 3_650  # of any certificate; the service's own configuration says less, and constitutions keep to that
REQUEST_BYTES_MAX: Final = 16 << 10

_TIMES: Final = ("%y%m%d%H%M%SZ", "%Y%m%d%H%M%SZ")


class Node(Protocol):
    """What these functions ask of the node that they run on."""

    @property
    def now_ms(self) -> int: ...
    @property
    def service(self) -> ServiceKeys: ...
    def secrets(self) -> list[LedgerSecret]: ...


class GovernanceCalls:
    """The functions.

    Attributes:
        calls: By the names under which scripts know them, below `ccf.`.
    """

    def __init__(self, node: Node, renewal: Renewal) -> None:
        self._node = node
        self._renewal = renewal
        self.calls: dict[str, Call] = {
            "node.transitionServiceToOpen": self._open,
            "node.triggerLedgerRekey": self._rekey,
            "node.triggerRecoverySharesRefresh": self._refresh_shares,
            "node.triggerLedgerChunk": _nothing,  # the ledger lies in one database; its export decides where files end
            "node.triggerSnapshot": _not_yet("this version of ledgerd makes no snapshots"),
            "network.getLatestLedgerSecretSeqno": self._latest_secret,
            "network.generateEndorsedCertificate": self._endorse,
            "network.generateNetworkCertificate": self._renew,
            **jwt_keys.CALLS,
            "refreshAppBytecodeCache": _nothing,  # modules are compiled where they run; there is no cache
        }

    def _open(self, context: Context, arguments: list[Any]) -> None:
        """`transitionServiceToOpen(previous, next)`: certificates in PEM, as bytes; a service that starts anew has no previous one."""
        _, named = _arguments(arguments, (bytes, type(None)), (bytes,))
        table = context.kv[tables.SERVICE_INFO]
        info: dict[str, Any] = tables.decode(table.get(tables.SINGLETON) or b"{}")
        if named.decode(errors="replace").strip() != info.get("cert", "").strip():
            raise ValueError("the service's certificate is another than the proposal's next_service_identity: it was made for another one")
        if info["status"] == tables.OPEN:
            return
        if info["status"] != tables.OPENING:
            raise ValueError(f"the service is {info['status']}, and cannot be opened")
        table.set(tables.SINGLETON, tables.encode({**info, "status": tables.OPEN}))
        self._renewal.ask(context, OPENING)

    def _rekey(self, context: Context, arguments: list[Any]) -> None:
        """`triggerLedgerRekey()`: what is written after this request's entry has another secret."""
        _arguments(arguments)
        self._renewal.ask(context, REKEY)

    def _refresh_shares(self, context: Context, arguments: list[Any]) -> None:
        """`triggerRecoverySharesRefresh()`: new shares of the present secret, for the members that there are when the request is done."""
        _arguments(arguments)
        self._renewal.ask(context, SHARES)

    def _latest_secret(self, context: Context, arguments: list[Any]) -> int:
        """`getLatestLedgerSecretSeqno()`: the first entry that has the present secret."""
        _arguments(arguments)
        context.kv[tables.ENCRYPTED_LEDGER_SECRETS].version_of(tables.SINGLETON)  # so that it is asked again if it changes meanwhile
        return self._node.secrets()[-1].version

    def _endorse(self, context: Context, arguments: list[Any]) -> str:
        """`generateEndorsedCertificate(request, validFrom, days)`: PEM in, PEM out; the time as in ASN.1, `YYMMDDHHMMSSZ`, or ISO 8601."""
        pem, valid_from, days = _arguments(arguments, (str,), (str,), (int, float))
        try:
            request = x509.load_pem_x509_csr(pem.encode()[:REQUEST_BYTES_MAX])
            is_valid = request.is_signature_valid and isinstance(request.public_key(), ec.EllipticCurvePublicKey)
        except Exception:  # the library's list of what it raises for malformed requests is long
            is_valid = False
        if not is_valid:
            raise ValueError("no certificate can be made: that is no certificate request by the key that it names, on an elliptic curve")
        begins, whole_days = self._period(valid_from, days)
        return self._keys(context).endorse(request, begins, whole_days).public_bytes(Encoding.PEM).decode()

    def _renew(self, context: Context, arguments: list[Any]) -> str:
        """`generateNetworkCertificate(validFrom, days)`: a new certificate of the same service key."""
        begins, days = self._period(*_arguments(arguments, (str,), (int, float)))
        return self._keys(context).renewed(begins, days).public_bytes(Encoding.PEM).decode()

    def _keys(self, context: Context) -> ServiceKeys:
        """The service's; for what is only shown, a certificate that nobody takes: one member must not get by asking what takes a vote."""
        return self._node.service.stand_in() if context.overlay.is_trial else self._node.service

    def _period(self, valid_from: str, days: float) -> tuple[datetime, int]:
        """From when, for how long. Raises: ValueError: It does not hold now, so that it would cut the service off."""
        begins = _time(valid_from)
        if not 1 <= days <= DAYS_MAX or int(days) != days:
            raise ValueError(f"a certificate is valid for 1 to {DAYS_MAX} days, not {days}")
        self._check_now(begins, int(days))
        return begins, int(days)

    def _check_now(self, begins: datetime, days: int) -> None:
        """Raises: ValueError: A certificate of this period would not be valid now."""
        now = at_milliseconds(self._node.now_ms)
        if not now - timedelta(days=days) < begins <= now + CLOCK_SLACK:
            shown = f"valid from {begins:%Y-%m-%dT%H:%M:%SZ} for {days} days"
            raise ValueError(f"{shown}: a certificate has to be valid now, {now:%Y-%m-%dT%H:%M:%SZ}")


def _time(text: str) -> datetime:
    for form in _TIMES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be before the first year, or after the last
        raise ValueError(f"{text[:64]!r} is no time such as 261231235959Z or 2026-12-31T23:59:59Z") from None


def _arguments(given: list[Any], *kinds: tuple[type, ...]) -> list[Any]:
    """The arguments, as many as there are kinds, each of its kind. Raises: ValueError."""
    if len(given) > len(kinds):
        raise ValueError(f"{len(given)} arguments; it takes {len(kinds)}")
    filled = [*given, *[None] * (len(kinds) - len(given))]
    for position, (value, wanted) in enumerate(zip(filled, kinds, strict=True)):
        if type(value) not in wanted:
            raise ValueError(f"argument {position + 1} is no {' or '.join(kind.__name__ for kind in wanted)}")
    return filled


def _nothing(_: Context, arguments: list[Any]) -> None:
    """Asks for what is so already."""
    _arguments(arguments)


def _not_yet(text: str) -> Callable[[Context, list[Any]], None]:
    def refuse(_: Context, arguments: list[Any]) -> None:
        raise ValueError(text)

    return refuse
