"""Records that every node reads as soon as they are written: what a constitution may not leave behind in any form it likes.

A constitution writes governance's tables itself. One that is wrong, or that members were talked into, must not be able to stop every node
of the service at once, so what nodes rely on is looked at before it becomes an entry. Everything else is judged where it is read.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ledgerd.enclave.keys import parse_certificate
from ledgerd.governance import tables
from ledgerd.ledger.errors import FormatError

_TEXT_MAX: Final = 1 << 20  # of one record; a node's holds its attestation document
THRESHOLD_MAX: Final = 254  # CCF's; a key is shared by polynomials of that degree, so a larger one keeps a node busy, each time
WINDOW_MAX: Final = 10_000  # requests that are remembered, each looked at by every later one


def problem_with(name: str, key: bytes, value: bytes | None) -> str | None:
    """What is wrong with a record that is to be written (None: removed), in words that go on after a colon; None if nothing is."""
    check = _CHECKS.get(name)
    if check is None:
        return None
    try:
        key.decode()
        if value is None:
            return "it cannot be removed" if name in _LASTING else None
        if name not in _LONG and len(value) > _TEXT_MAX:
            return f"it has {len(value)} bytes; at most {_TEXT_MAX} are read"
        check(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as error:
        return f"no node could read it ({type(error).__name__})"
    return None


def _object(value: bytes) -> Any:
    found = tables.decode(value)
    tables.encode(found)  # no half characters, no NaN
    if type(found) is not dict:
        raise TypeError
    return found


def _is(value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise TypeError


def _one_of(value: Any, *known: str) -> None:
    if value not in known:
        raise ValueError


def _node(value: bytes) -> None:
    record = _object(value)
    _one_of(record["status"], tables.PENDING, tables.TRUSTED, tables.RETIRED)
    _is(record["retired_committed"], bool)
    _address(record["node_to_node_interface"]["published_address"])
    for interface in record["rpc_interfaces"].values():
        _address(interface["published_address"])
    if not record["rpc_interfaces"]:
        raise ValueError
    _is(record["quote_info"], dict)
    for name in ("public_key", "encryption_pub_key", "certificate_signing_request"):
        _is(record[name], str)


def _address(text: Any) -> None:
    _is(text, str)
    host, _, port = text.rpartition(":")
    if not host or not text.isprintable() or not 0 < int(port) < 65536:
        raise ValueError


def _service(value: bytes) -> None:
    record = _object(value)
    _one_of(record["status"], tables.OPENING, tables.OPEN, tables.WAITING_FOR_SHARES, "Recovering")
    parse_certificate(record["cert"])
    _is(record["recovery_count"], int)
    _is(record["current_service_create_txid"], str)


def _service_configuration(value: bytes) -> None:
    record = _object(value)
    for name, most in (("recent_cose_proposals_window_size", WINDOW_MAX), ("recovery_threshold", THRESHOLD_MAX)):
        number = record.get(name, 1)
        _is(number, int)
        if not 0 < number <= most:
            raise ValueError


def _member(value: bytes) -> None:
    _is(_object(value)["status"], str)


def _certificate(value: bytes) -> None:
    parse_certificate(value.decode())


def _proposal(value: bytes) -> None:
    record = _object(value)
    _is(record["state"], str)
    _is(record["proposer_id"], str)
    for ballot in record["ballots"].values():
        _is(ballot, str)


def _text(value: bytes) -> None:
    _is(tables.decode(value), str)


def _settings(value: bytes) -> None:
    record = _object(value)
    _one_of(record["admission"], "automatic", "vote")
    _one_of(record["application_policy"], "user_cert", "open")
    if record["open_at_nodes"] is not None:
        _is(record["open_at_nodes"], int)


def _former(value: bytes) -> None:
    if not value:
        raise ValueError


_CHECKS: Final[Mapping[str, Callable[[bytes], object]]] = {
    tables.NODE_INFO: _node,
    tables.NODE_ENDORSED_CERTIFICATES: _certificate,
    tables.FORMER_NODES: _former,
    tables.SERVICE_INFO: _service,
    tables.SERVICE_CONFIG: _service_configuration,
    tables.SETTINGS: _settings,
    tables.CONFIGURATION: _object,
    tables.CONSTITUTION: _text,
    tables.MEMBER_INFO: _member,
    tables.MEMBER_CERTS: _certificate,
    tables.USER_CERTS: _certificate,
    tables.PROPOSALS_INFO: _proposal,
    tables.COSE_RECENT_PROPOSALS: _text,
}
_LASTING: Final = frozenset(
    {tables.SERVICE_INFO, tables.SERVICE_CONFIG, tables.SETTINGS, tables.CONFIGURATION, tables.CONSTITUTION, tables.FORMER_NODES}
)
_LONG: Final = frozenset({tables.CONSTITUTION, tables.PROPOSALS_INFO})
