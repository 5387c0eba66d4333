"""Asks nodes and other addresses for evidence: a node for a document that holds our nonce, any address for what lies there."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ledgerd.ledger.errors import ConfigurationError, IntegrityError, LedgerdError
from ledgerd.node.cli import evidence as found
from ledgerd.node.cli.judging import record_refusal
from ledgerd.node.cli.output import Output
from ledgerd.node.cli.service import ServiceOptions

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.measurement import Measurement
    from ledgerd.ledger.attestation.nitro import Attestation

STATEMENT_PATH: Final = "/node/attestations/self?nonce="
REDIRECTIONS_MAX: Final = 5


class Unanswered(LedgerdError):
    """An address gave no evidence."""

    code = "Unanswered"


def verify_live(
    output: Output,
    service: ServiceOptions,
    roots: tuple[Path, ...],
    lines: "list[Measurement]",
    registers: dict[int, bytes],
    genesis: bytes | None,
    save: Path | None,
) -> None:
    """Have a node attest itself for a nonce of ours, and judge it as the SDK does; end with status 1 if it is refused.

    Raises: ConfigurationError: No image is stated, or no node.
    """
    from ledgerd.ledger.attestation.evidence import NITRO  # noqa: PLC0415
    from ledgerd.network.client.errors import ServiceIdentityMismatch  # noqa: PLC0415

    try:
        attestation, fields = _live(service, roots, [*lines, *_line_of(registers, lines)], registers, genesis, save)
    except (IntegrityError, ServiceIdentityMismatch) as error:
        record_refusal(output, error, NITRO, {})
    facts, people = found.nitro_facts(attestation, time.time_ns() // 1_000_000, attestation.simulated)
    certificate = fields.pop("service_certificate")
    output.record(
        "attestation_verify",
        {
            "valid": True,
            "format": NITRO,
            **({"measurement_checked": True} if output.json else {"accepted_image": "as was demanded"}),
            **(facts if output.json else people),
            "root": attestation.root if output.json else found.nitro_root(attestation),
            **({**fields, "service_certificate": certificate} if output.json else {**fields, **_settings(fields["settings"])}),
        },
    )
    if attestation.simulated:
        output.note(found.SIMULATED)
    if fields["settings"].get("public_name"):
        output.note("Whoever chose the key of the public name can read its TLS key: see that the members agreed on that key (docs/kms.md)")
    if save is None:
        output.note("--save FILE keeps the service certificate that this proves, to be used as --service-cert")


def _live(
    service: ServiceOptions,
    roots: tuple[Path, ...],
    accepted: "list[Measurement]",
    registers: dict[int, bytes],
    genesis: bytes | None,
    save: Path | None,
) -> tuple["Attestation", dict[str, Any]]:
    from ledgerd.ledger.attestation.policy import check_pcrs  # noqa: PLC0415
    from ledgerd.network.client import Budget, Client  # noqa: PLC0415

    if not accepted:
        raise ConfigurationError("which image may run? Give --measurements FILE, or --pcr 0=HEX --pcr 1=HEX --pcr 2=HEX")
    if not service.urls:
        raise ConfigurationError("which node? Give --url https://HOST:PORT, or a FILE")
    budget = Budget(seconds=service.timeout)
    with Client.trust(
        service.urls, roots=roots or None, measurements=accepted, genesis=None if genesis is None else genesis.hex(), budget=budget
    ) as client:
        assert client.attestation is not None, "trust sets it"
        trusted, identity = client.attestation, client.identity
    check_pcrs(trusted.attestation, registers)
    fields: dict[str, Any] = {
        "genesis": identity.genesis,
        "configuration": trusted.configuration,
        "settings": trusted.settings,
        "service_certificate": identity.certificate,
    }
    if save is not None:
        try:
            save.write_text(identity.certificate, encoding="ascii")
        except OSError as error:
            raise ConfigurationError(f"cannot write {save}: {error.strerror}") from None
        fields["saved"] = str(save)
    return trusted.attestation, fields


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What is attested of the service's settings, for people."""
    admission, name = settings.get("admission"), settings.get("public_name")
    return {
        "admission": "automatic: whoever runs an accepted image is admitted" if admission == "automatic" else admission,
        "public_name": f"{name['name']}, sealed under {name['key']}"
        if isinstance(name, dict) and {"name", "key"} <= name.keys()
        else "none",
    }


def _line_of(registers: dict[int, bytes], lines: "list[Measurement]") -> "list[Measurement]":
    """An image stated by --pcr 0, 1 and 2, for nodes; beside --measurements registers are only compared."""
    from ledgerd.ledger.attestation.measurement import parse_measurement  # noqa: PLC0415

    if lines or not registers:
        return []
    if not {0, 1, 2} <= registers.keys():
        raise ConfigurationError("PCR0, PCR1 and PCR2 of an image count together: give --pcr for all three")
    return [parse_measurement(*(registers[index].hex() for index in range(3)))]


def is_url(target: str) -> bool:
    """Whether it is an address, and no file."""
    return target.startswith(("https://", "http://"))


def is_node(target: str | None) -> bool:
    """Whether it is the address of a node, and not of something there. Nodes speak TLS only.

    Raises: ConfigurationError: It begins as an address, and is none.
    """
    if target is None or not is_url(target):
        return False
    try:
        parts = urlsplit(target)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no host, or no port")
    except ValueError as error:
        raise ConfigurationError(f"{target} is no address: {error}") from None
    return parts.scheme == "https" and parts.path in ("", "/") and not parts.query


def fetch(url: str, timeout: float, nonce: bytes | None) -> bytes:
    """Get evidence from an address. Whose address it is does not matter: evidence speaks for itself.

    Args:
        url: `https://` or `http://`; redirections from there are followed, a node's are not.
        timeout: Seconds that all of it may take, however slowly the answer drips.
        nonce: If the address is a node's: what the document is to be made for.
    Raises: ConfigurationError: It is no address. Unanswered: There is no answer, or another one.
    """
    import anyio  # noqa: PLC0415

    try:
        return anyio.run(_fetch, url, timeout, nonce)
    except TimeoutError:
        raise Unanswered(f"no evidence from {url}: it was not all there within {timeout:g} s; ask again, or give a FILE") from None


async def _fetch(url: str, seconds: float, nonce: bytes | None) -> bytes:
    import anyio  # noqa: PLC0415
    import httpx  # noqa: PLC0415

    from ledgerd.network.client.identity import ALPN_HTTP, unverified_context  # noqa: PLC0415

    address = url if nonce is None else f"{url.rstrip('/')}{STATEMENT_PATH}{nonce.hex()}"
    # As it is: of what is compressed, a few bytes could become a gigabyte.
    client = httpx.AsyncClient(
        verify=unverified_context(ALPN_HTTP),
        trust_env=False,
        timeout=seconds,
        headers={"accept-encoding": "identity"},
        follow_redirects=nonce is None,
        max_redirects=REDIRECTIONS_MAX,
    )
    data = b""
    try:
        with anyio.fail_after(seconds):
            async with client as http, http.stream("GET", address) as response:
                if response.status_code != 200:
                    raise ConnectionError(f"it answered {response.status_code}")
                async for part in response.aiter_raw():
                    data += part
                    if len(data) > found.SIZE_BYTES_MAX:
                        break
                return data
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"{url} is no address: {error}") from None
    except (httpx.HTTPError, ConnectionError) as error:
        raise Unanswered(f"no evidence from {url}: {error or type(error).__name__}; ask again, or give a FILE") from None
