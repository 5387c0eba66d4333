"""Options that name the service a command talks to, and the client made from them.

Inside `ledgerd dev --exec`, and wherever its variables are set, they need not be given.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.parameters import FILE

if TYPE_CHECKING:  # the SDK takes long to load, so each command loads it when it runs
    from ledgerd.network.client import Client

SERVICE_CERT_VARIABLE: Final = "LEDGERD_SERVICE_CERT"


class ServiceOptions(NamedTuple):
    """What the options say."""

    urls: tuple[str, ...]
    service_cert: Path | None
    cert: Path | None
    key: Path | None
    timeout: float

    def client(self) -> "Client":
        """Make the client. Raises: ConfigurationError: Something is missing or unusable."""
        from ledgerd.network.client import Budget, Client  # noqa: PLC0415

        if not self.urls:
            raise ConfigurationError(
                "which service? Give --url https://HOST:PORT, or set LEDGERD_URLS, or LEDGERD_DIR to the --dir of `ledgerd dev`"
            )
        if self.service_cert is None:
            raise ConfigurationError(
                "whose service? Give --service-cert FILE, its certificate; `ledgerd attestation verify --save FILE` gets it safely"
            )
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("--cert and --key belong together: give both or neither")
        credentials = None if self.cert is None or self.key is None else (self.cert, self.key)
        return Client(self.urls, service_certificate=self.service_cert, credentials=credentials, budget=Budget(seconds=self.timeout))


def service_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as `service: ServiceOptions`."""

    @functools.wraps(function)
    def gather(*arguments: Any, **options: Any) -> Any:
        named = [options.pop(name) for name in ("url", "service_cert", "cert", "key", "timeout")]
        return function(*arguments, service=resolve(*named), **options)

    return _decorated(
        gather,
        (
            _URL,
            _SERVICE_CERT,
            click.option("--cert", type=FILE, help="Your certificate, PEM. [env LEDGERD_CERT; user0 in LEDGERD_DIR]"),
            click.option("--key", type=FILE, help="Your private key, PEM. [env LEDGERD_KEY; user0 in LEDGERD_DIR]"),
            _TIMEOUT,
        ),
    )


def node_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that asks as nobody, or by what a member has signed: no certificate of a user's."""

    @functools.wraps(function)
    def gather(*arguments: Any, **options: Any) -> Any:
        urls, service_cert, timeout = (options.pop(name) for name in ("url", "service_cert", "timeout"))
        return function(*arguments, service=resolve(urls, service_cert, None, None, timeout)._replace(cert=None, key=None), **options)

    return _decorated(gather, (_URL, _SERVICE_CERT, _TIMEOUT))


_URL: Final = click.option(
    "--url",
    multiple=True,
    metavar="URL",
    help="A node, https://HOST:PORT; may be repeated. [env LEDGERD_URLS, by commas; LEDGERD_URL; nodes in LEDGERD_DIR]",
)
_SERVICE_CERT: Final = click.option(
    "--service-cert", type=FILE, help=f"The service's certificate, PEM. [env {SERVICE_CERT_VARIABLE}; LEDGERD_DIR]"
)
_TIMEOUT: Final = click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), default=15.0, show_default=True, help="Seconds, all retries together."
)
_MEMBER_CERT: Final = click.option(
    "--member-cert", type=FILE, help="A member's certificate, PEM. [env LEDGERD_MEMBER_CERT; member0 in LEDGERD_DIR]"
)
_MEMBER_KEY: Final = click.option(
    "--member-key", type=FILE, help="The member's private key, PEM. [env LEDGERD_MEMBER_KEY; member0 in LEDGERD_DIR]"
)


def _decorated(function: Callable[..., Any], options: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def member_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a member's files; the command gets `member: tuple[Path, Path]`, certificate and key."""

    @functools.wraps(function)
    def gather(*arguments: Any, **options: Any) -> Any:
        certificate, key = member_files(options.pop("member_cert"), options.pop("member_key"))
        if certificate is None or key is None:
            raise ConfigurationError("who asks? Members sign what they propose: give both --member-cert FILE and --member-key FILE")
        return function(*arguments, member=(certificate, key), **options)

    return _decorated(gather, (_MEMBER_CERT, _MEMBER_KEY))


class Signing(NamedTuple):
    """Who signs, and how.

    Attributes:
        certificate: The member's; None if none was named.
        key: None if it is elsewhere.
        prepare: A folder: nothing is signed, what is to be signed is written there.
    """

    certificate: Path | None
    key: Path | None
    prepare: Path | None


def signing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that signs for a member, here or in two steps; the command gets `signing: Signing`."""

    @functools.wraps(function)
    def gather(*arguments: Any, **options: Any) -> Any:
        named = member_files(options.pop("member_cert"), options.pop("member_key"))
        return function(*arguments, signing=Signing(*named, options.pop("prepare")), **options)

    prepare = click.option(
        "--prepare",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Sign nothing: write what is to be signed into a new folder, for a key in an HSM or vault. Then: ledgerd gov finish.",
    )
    return _decorated(gather, (_MEMBER_CERT, _MEMBER_KEY, prepare))


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that asks as a member where it can; it gets `member: tuple[Path, Path] | None`."""

    @functools.wraps(function)
    def gather(*arguments: Any, **options: Any) -> Any:
        certificate, key = member_files(options.pop("member_cert"), options.pop("member_key"))
        member = None if certificate is None or key is None else (certificate, key)
        return function(*arguments, member=member, **options)

    return _decorated(gather, (_MEMBER_CERT, _MEMBER_KEY))


def member_files(certificate: Path | None, key: Path | None) -> tuple[Path | None, Path | None]:
    """A member's certificate and key, from the environment where neither was given."""
    if certificate is None and key is None:
        return _file("LEDGERD_MEMBER_CERT", "member0_cert.pem"), _file("LEDGERD_MEMBER_KEY", "member0_privk.pem")
    return certificate, key


def resolve(urls: tuple[str, ...], service_cert: Path | None, cert: Path | None, key: Path | None, timeout: float) -> ServiceOptions:
    """Fill in from the environment what was not given: first the variable of the option, then the folder of `ledgerd dev`."""
    if not urls:
        text = os.environ.get("LEDGERD_URLS") or os.environ.get("LEDGERD_URL") or ""
        urls = tuple(url.strip() for url in text.split(",") if url.strip())
    if not urls and (folder := _path_in("LEDGERD_DIR")) is not None:
        urls = tuple(f"https://{path.read_text().strip()}" for path in sorted(folder.glob("node*/rpc_address")))
    service_cert = service_cert or _file(SERVICE_CERT_VARIABLE, "service_cert.pem")
    if cert is None and key is None:
        cert, key = _file("LEDGERD_CERT", "user0_cert.pem"), _file("LEDGERD_KEY", "user0_privk.pem")
    return ServiceOptions(urls, service_cert, cert, key, timeout)


def _path_in(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _file(variable: str, name: str) -> Path | None:
    """The file that a variable names; without it, the one of this name that `ledgerd dev` made."""
    file, folder = _path_in(variable), _path_in("LEDGERD_DIR")
    if file is None and folder is not None and (made := folder / "common" / name).exists():
        return made
    return file
