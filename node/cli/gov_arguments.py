"""Reads what a member gives for an argument of a proposal: files, JSON, ids, times. What does not fit is told before anything is signed.

Not here: which arguments there are (`cli.gov_actions`), folders of applications (`cli.gov_bundle`), what only the service can judge.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.gov_actions import Argument, Kind
from ledgerd.node.cli.gov_bundle import read_bundle
from ledgerd.node.cli.gov_files import parse_json, read_bytes, read_text
from ledgerd.node.cli.parameters import PREFIX_MIN, is_id, is_prefix

_PEM_BYTES_MAX: Final = 1 << 20
_WHOLE_MAX: Final = (1 << 53) - 1  # what a script reads exactly
_DIGITS_SHOWN: Final = 16

_is_hex: Final = re.compile(r"([0-9a-f]{2})+").fullmatch
_is_duration: Final = re.compile(r"([1-9][0-9]{0,5})([mhdw])").fullmatch
_DURATION_SECONDS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_time(text: str, what: str) -> datetime:
    """A time, such as 2027-01-01T12:00:00Z or 20270101120000Z; UTC where it says no zone. Raises: ConfigurationError."""
    try:
        form = {15: "%Y%m%d%H%M%SZ", 13: "%y%m%d%H%M%SZ"}.get(len(text)) if re.fullmatch(r"[0-9]+Z", text) else None
        found = datetime.strptime(text, form) if form is not None else datetime.fromisoformat(text)  # noqa: DTZ007 (said below)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{what}: {text!r} is no time such as 2027-01-01T12:00:00Z") from None


def parse_duration(text: str) -> int:
    """A length of time such as 90m, 48h, 7d, 2w, in seconds. Raises: ConfigurationError."""
    found = _is_duration(text)
    if found is None:
        raise ConfigurationError(f"{text!r} is no length of time such as 90m, 48h, 7d or 2w")
    return int(found[1]) * _DURATION_SECONDS[found[2]]


def certificates_in(pem: str) -> list[Any]:
    """The certificates of a PEM text. Raises: ConfigurationError: One is broken."""
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except Exception:  # the library's list of what it raises for malformed certificates is long
        raise ConfigurationError("it has no certificate in PEM, or a broken one") from None


def read(argument: Argument, value: Any) -> Any:
    """The value for the proposal, from what was given on the command line.

    Raises: ConfigurationError: It is not what the argument is; the message names the option.
    """
    try:
        return _READERS[argument.kind](argument, value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{argument.option}: {error}") from None


def _certificate(argument: Argument, name: str) -> str:
    pem = _ascii(name)
    if (count := len(certificates_in(pem))) != 1:
        raise ConfigurationError(f"{name} has {count} certificates; expected exactly one")
    return pem


def _certificates(argument: Argument, name: str) -> str:
    pem = _ascii(name)
    certificates_in(pem)
    return pem


def _ascii(name: str) -> str:
    try:
        pem = read_bytes(name, _PEM_BYTES_MAX).decode("ascii")
        if "-----BEGIN " in pem:
            return pem
    except UnicodeDecodeError:
        pass
    raise ConfigurationError(f"{name} is no PEM file, which begins with -----BEGIN; `openssl x509 -inform der` makes one of a DER file")


def _public_key(argument: Argument, name: str) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    pem = _ascii(name)
    if "PRIVATE KEY-----" in pem:
        raise ConfigurationError(f"{name} has a private key, which must never be in a proposal; give the public one")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{name} is no public key in PEM") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigurationError(f"{name} is no RSA key; shares are encrypted with RSA-OAEP")
    return pem


def _value(argument: Argument, given: str) -> Any:
    name = given.removeprefix("@")
    if given.startswith("@"):
        return parse_json(read_text(name), name)
    return parse_json(given, f"{given[:64]!r}") if given else _nothing()


def _nothing() -> Any:
    raise ConfigurationError("expected JSON, or @FILE; got nothing")


def _object(argument: Argument, given: str) -> Any:
    value = _value(argument, given)
    if value is not None and not isinstance(value, dict):
        raise ConfigurationError(f'expected a JSON object, such as {{"name": "..."}}; got {given[:64]!r}')
    return value


def _text(argument: Argument, given: str) -> str:
    return read_text(given[1:]) if given.startswith("@") else given


def _bundle(argument: Argument, name: str) -> Any:
    return read_bundle(Path(name))


def _scripts(argument: Argument, names: tuple[str, ...]) -> str:
    return "\n".join(read_text(name) for name in names)


def first_digits(given: str) -> str | None:
    """The digits, if that is how a longer id begins."""
    digits = given.removesuffix("...")
    return digits if is_prefix(digits) and not is_id(digits) else None


def _id(argument: Argument, given: str) -> str:
    if is_id(given) is None:
        raise ConfigurationError(f"{given[:80]!r} is no id: give {PREFIX_MIN} to 64 of its lower-case hexadecimal digits")
    return given


def _certified(argument: Argument, given: str) -> str:
    if is_id(given) is not None:
        return given
    if not Path(given).is_file():
        raise ConfigurationError(f"{given[:80]!r} is neither an id, 64 lower-case hexadecimal digits, nor the file of a certificate")
    from ledgerd.governance.requests import member_id_of  # noqa: PLC0415

    return member_id_of(certificates_in(_certificate(argument, given))[0])


def _hex(argument: Argument, given: str) -> str:
    digits = given.lower().removeprefix("0x")
    if _is_hex(digits) is None or len(digits) != 2 * argument.size:
        raise ConfigurationError(
            f"{given[:_DIGITS_SHOWN]!r}... are not {2 * argument.size} hexadecimal digits; got {len(given)} characters"
        )
    return digits


def _whole(argument: Argument, given: str) -> int:
    if not given.isdecimal() or not given.isascii() or len(given) > len(str(_WHOLE_MAX)) or int(given) > _WHOLE_MAX:
        raise ConfigurationError(f"{given[:64]!r} is no whole number")
    return int(given)


def _time(argument: Argument, given: str) -> str:
    return parse_time(given, "it").strftime("%Y%m%d%H%M%SZ")


def _as_it_is(argument: Argument, given: Any) -> Any:
    return given


_READERS: Final[dict[Kind, Callable[[Argument, Any], Any]]] = {
    Kind.CERTIFICATE: _certificate,
    Kind.CERTIFICATES: _certificates,
    Kind.SERVICE: _certificate,
    Kind.PUBLIC_KEY: _public_key,
    Kind.OBJECT: _object,
    Kind.VALUE: _value,
    Kind.BUNDLE: _bundle,
    Kind.SCRIPTS: _scripts,
    Kind.CERTIFIED: _certified,
    Kind.ID: _id,
    Kind.HEX: _hex,
    Kind.TEXT: _text,
    Kind.WHOLE: _whole,
    Kind.TIME: _time,
    Kind.FLAG: _as_it_is,
    Kind.CHOICE: _as_it_is,
}
