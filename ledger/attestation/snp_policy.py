"""Judgement of SEV-SNP reports, now or then; what a consortium accepts is stated as CCF's join policy states it.

A report has no nonce and no time, only 64 bytes of the guest's choice. Their first half is, as in CCF, the digest of the node's public
key. For a caller's nonce the second half binds it and the user data; CCF leaves that half zero, and such reports can only be recorded.
Not here: proof of origin (`snp`, `uvm`), who may change the tables (`governance`).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from ledgerd.ledger import cbor
from ledgerd.ledger.attestation import snp, uvm
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.policy import NONCE_SIZE_BYTES_MIN
from ledgerd.ledger.attestation.snp import AMD_ARKS, Cpu, SnpAttestation, Tcb, cpuid, parse_cpuid
from ledgerd.ledger.attestation.uvm import UvmEndorsement
from ledgerd.ledger.errors import ConfigurationError, UsageError

REPORT_DATA_SIZE_BYTES: Final = 64
VMPL_GUEST_MAX: Final = 3

_TCB_NAMES: Final = frozenset(Tcb._fields)
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")


class LeastTcb(NamedTuple):
    """The oldest firmware that is accepted on one kind of processor."""

    cpu: Cpu
    tcb: Tcb


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """What a verifier accepts; empty, it accepts nobody. There is no switch for debug guests.

    Attributes:
        measurements: 48 bytes each: guests that may run whoever vouches for them.
        uvm: Publisher (did:x509) to feed to least version number: those who may vouch for a guest.
        host_data: 32 bytes each: container policies that the guest may enforce. On Azure the measurement is Microsoft's guest, the same
            for everybody, and only this says what runs in it.
        least_tcb: Oldest firmware by kind of processor; a processor of no kind listed is refused.
        vmpl_max: Lowest privilege level (highest number) from which a report may come.
        arks: Accepted roots; see `snp.verify`.
    """

    measurements: frozenset[bytes] = frozenset()
    uvm: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    host_data: frozenset[bytes] = frozenset()
    least_tcb: tuple[LeastTcb, ...] = ()
    vmpl_max: int = 0
    arks: Mapping[str, str] = field(default_factory=lambda: AMD_ARKS)


def verify_now(
    report: bytes,
    endorsements: bytes,
    uvm_endorsement: bytes | None,
    policy: SnpPolicy,
    *,
    now_ms: int,
    nonce: bytes,
    public_key: bytes,
    user_data: bytes,
) -> SnpAttestation:
    """Verify a report that was made for this caller, just now.

    Args:
        report, endorsements: As in `snp.verify`.
        uvm_endorsement: COSE_Sign1, where the platform gives one.
        policy: What to accept.
        now_ms: Milliseconds since 1970 by a clock that the caller trusts.
        nonce: What this caller made for this one report, at least 16 bytes; the caller forgets it after this call.
        public_key: DER of the node's key.
        user_data: The data that must be attested; see `report_data`.
    Raises: AttestationError: Any of `errors.RULES` but Nitro's. UsageError: The nonce is too short.
    """
    if len(nonce) < NONCE_SIZE_BYTES_MIN:
        raise UsageError(f"a nonce of {len(nonce)} bytes can be guessed or repeat; make at least {NONCE_SIZE_BYTES_MIN} random ones")
    attestation = snp.verify(report, endorsements, at_ms=now_ms, arks=policy.arks)
    _check_all(attestation, uvm_endorsement, policy)
    check_public_key(attestation, public_key)
    check_nonce(attestation, public_key, nonce, user_data)
    return attestation


def verify_recorded(
    report: bytes,
    endorsements: bytes,
    uvm_endorsement: bytes | None,
    policy: SnpPolicy,
    *,
    at_ms: int,
    public_key: bytes | None = None,
) -> SnpAttestation:
    """Verify a report that the ledger holds, as of the time at which the ledger recorded it. Proves nothing about now.

    Args:
        report, endorsements, uvm_endorsement, policy: As in `verify_now`.
        at_ms: When it was recorded, milliseconds since 1970.
        public_key: DER of the node's key, or None if the caller binds it itself.
    Raises: AttestationError: Any of `errors.RULES` but Nitro's and `nonce`.
    """
    attestation = snp.verify(report, endorsements, at_ms=at_ms, arks=policy.arks)
    _check_all(attestation, uvm_endorsement, policy)
    if public_key is not None:
        check_public_key(attestation, public_key)
    return attestation


def report_data(public_key: bytes, nonce: bytes, user_data: bytes) -> bytes:
    """What a guest puts into its report for a caller's nonce: SHA-256 of its key's DER, then SHA-256 of the CBOR array of both."""
    return sha256(public_key).digest() + sha256(cbor.encode([nonce, user_data])).digest()


def _check_all(attestation: SnpAttestation, uvm_endorsement: bytes | None, policy: SnpPolicy) -> None:
    check_tcb(attestation, policy.least_tcb)
    check_guest(attestation, uvm_endorsement, policy)


def check_guest(attestation: SnpAttestation, uvm_endorsement: bytes | None, policy: SnpPolicy) -> None:
    """Refuse a guest that is not wanted, whatever firmware is below it (rules `debug` to `host_data`)."""
    check_debug(attestation)
    check_migration(attestation)
    check_vmpl(attestation, policy.vmpl_max)
    if attestation.measurement not in policy.measurements:
        check_endorsed(attestation, uvm_endorsement, policy)
    check_host_data(attestation, policy.host_data)


def check_tcb(attestation: SnpAttestation, least: Iterable[LeastTcb]) -> None:
    """Refuse firmware older than is accepted for this kind of processor, or a kind that is not listed (rule `tcb`).

    Reports before version 3 do not name the processor: then every line for the product must be reached.
    """
    lines = [line for line in least if (line.cpu == attestation.cpu if attestation.cpu else line.cpu.product == attestation.product)]
    if not lines or not all(attestation.tcb.reaches(line.tcb) for line in lines):
        kind = f"{attestation.product} {cpuid(attestation.cpu)}" if attestation.cpu else attestation.product
        raise AttestationError(
            "tcb",
            f"a {kind} with firmware {attestation.tcb}",
            "at least " + " and ".join(str(line.tcb) for line in lines) if lines else "a kind of processor that the policy lists",
            "let the cloud update the machine's firmware, or propose to accept this one",
        )


def check_debug(attestation: SnpAttestation) -> None:
    """Refuse a guest that its host may read (rule `debug`)."""
    if attestation.debug:
        raise AttestationError(
            "debug",
            "a guest in debug mode: its policy has bit 19, so the host may read and change its memory",
            "a guest without debug mode",
            "launch the guest with a policy without DEBUG",
        )


def check_migration(attestation: SnpAttestation) -> None:
    """Refuse a guest that may be moved, and so be there twice (rule `migration`)."""
    if attestation.may_migrate:
        raise AttestationError(
            "migration",
            "a guest that may be moved by a migration agent: its policy has bit 18",
            "a guest that stays where it is",
            "launch the guest with a policy without MIGRATE_MA",
        )


def check_vmpl(attestation: SnpAttestation, vmpl_max: int) -> None:
    """Refuse a report of the host's, or of a lower privilege level than is accepted (rule `vmpl`)."""
    if attestation.vmpl > min(vmpl_max, VMPL_GUEST_MAX):
        raise AttestationError(
            "vmpl",
            f"a report for privilege level {attestation.vmpl}{', which is the host' if attestation.vmpl > VMPL_GUEST_MAX else ''}",
            f"0 to {min(vmpl_max, VMPL_GUEST_MAX)}",
            "let the node itself ask for the report, in the guest that was measured",
        )


def check_endorsed(attestation: SnpAttestation, uvm_endorsement: bytes | None, policy: SnpPolicy) -> None:
    """Refuse a measurement for which nobody vouches who is accepted (rules `measurement`, `endorsement`)."""
    seen = f"a guest with measurement {attestation.measurement.hex()}"
    if uvm_endorsement is None:
        listed = " or ".join(sorted(value.hex() for value in policy.measurements)[:3])
        raise AttestationError(
            "measurement",
            f"{seen}, without an endorsement",
            listed or "a measurement of the allow-list, which is empty",
            "run a guest that the members accepted, send the platform's UVM endorsement, or propose to accept this guest",
        )
    endorsement = uvm.verify(uvm_endorsement)
    check_endorsement_is_of(attestation, endorsement)
    least = policy.uvm.get(endorsement.did, {}).get(endorsement.feed)
    if least is None or endorsement.svn < least:
        raise AttestationError(
            "endorsement",
            f"{seen}, endorsed by {endorsement.did[:200]} as version {endorsement.svn} of {endorsement.feed[:100]}",
            f"version {least} or later" if least is not None else "a publisher and feed that the policy lists",
            "run a guest of a version that the members accepted, or propose to accept this publisher, feed and version",
        )


def check_endorsement_is_of(attestation: SnpAttestation, endorsement: UvmEndorsement) -> None:
    """Refuse an endorsement of another measurement (rule `endorsement`)."""
    if endorsement.measurement != attestation.measurement:
        raise AttestationError(
            "endorsement",
            f"an endorsement of measurement {endorsement.measurement.hex()}",
            f"one of the report's, {attestation.measurement.hex()}",
            "send the endorsement of the guest that runs",
        )


def check_host_data(attestation: SnpAttestation, accepted: Iterable[bytes]) -> None:
    """Refuse a container policy that is not accepted (rule `host_data`)."""
    accepted = set(accepted)
    if attestation.host_data not in accepted:
        raise AttestationError(
            "host_data",
            f"host data {attestation.host_data.hex()}",
            " or ".join(sorted(value.hex() for value in accepted)[:3]) or "one of the allow-list, which is empty",
            "launch the guest with a container policy that the members accepted, or propose to accept this one",
        )


def host_data_of(security_policy: bytes) -> bytes:
    """What a host must bind for a container policy, as Azure does: its SHA-256."""
    return sha256(security_policy).digest()


def check_report_data(attestation: SnpAttestation, expected: bytes) -> None:
    """Refuse a report whose data is not `expected`, filled up with zeros (rule `nonce`); for tools, where nothing else is bound."""
    if not compare_digest(attestation.report_data, expected.ljust(REPORT_DATA_SIZE_BYTES, b"\x00")):
        raise AttestationError(
            "nonce",
            f"report data {attestation.report_data.hex()}",
            f"{expected.hex()}, filled up with zeros",
            "the report was made for somebody else, or is a replay: ask for a new one",
        )


def check_public_key(attestation: SnpAttestation, public_key: bytes) -> None:
    """Refuse a report that attests another key: its data must begin with the SHA-256 of the key's DER (rule `public_key`)."""
    expected = sha256(public_key).digest()
    if not compare_digest(attestation.report_data[:32], expected):
        raise AttestationError(
            "public_key",
            f"report data that begins with {attestation.report_data[:32].hex()}",
            f"{expected.hex()}, the digest of the node's key",
            "somebody else's report was presented: do not trust the sender",
        )


def check_nonce(attestation: SnpAttestation, public_key: bytes, nonce: bytes, user_data: bytes) -> None:
    """Refuse a report that was not made for this nonce and user data (rule `nonce`)."""
    expected = report_data(public_key, nonce, user_data)[32:]
    if not compare_digest(attestation.report_data[32:], expected):
        raise AttestationError(
            "nonce",
            f"report data that ends with {attestation.report_data[32:].hex()}",
            f"{expected.hex()}, the digest of nonce and user data",
            "the report is a replay, the challenge is stale, or both sides' configurations differ: ask for a new challenge",
        )


# CCF's tables.


def policy_of(
    *,
    measurements: Iterable[bytes] = (),
    host_data: Iterable[bytes] = (),
    uvm_endorsements: Iterable[tuple[bytes, bytes]] = (),
    tcb_versions: Iterable[tuple[bytes, bytes]] = (),
) -> SnpPolicy:
    """Read the rows of CCF's tables `public:ccf.gov.nodes.snp.*`.

    Args:
        measurements: Keys: 96 hex characters.
        host_data: Keys: 64 hex characters. (The values are the policies' texts, which nobody needs to judge a report.)
        uvm_endorsements: Keys and values: did; JSON, feed to `{"svn": "100"}`.
        tcb_versions: Keys and values: CPUID in hex; JSON with `boot_loader`, `tee`, `snp`, `microcode`, and on Turin `fmc`; or `hexstring`.
    Raises: ConfigurationError: A row is of another form.
    """
    return SnpPolicy(
        frozenset(_bytes_of(key, 48, "measurement") for key in measurements),
        {_text(key): _feeds(key, value) for key, value in uvm_endorsements},
        frozenset(_bytes_of(key, 32, "host data") for key in host_data),
        tuple(_least_tcb(key, value) for key, value in tcb_versions),
    )


def _least_tcb(key: bytes, value: bytes) -> LeastTcb:
    cpu = parse_cpuid(key.decode(errors="replace"))
    record = _json(value, "TCB version")
    if cpu.product is None:
        raise ConfigurationError(f"CPUID {_text(key)} is no Milan, Genoa or Turin, the processors that are supported")
    components = {name: record[name] for name in _TCB_NAMES & record.keys() if record[name] is not None}
    wanted = _TCB_NAMES if cpu.product == snp.TURIN else _TCB_NAMES - {"fmc"}
    if not components and type(record.get("hexstring")) is str:
        # As CCF shows it: the eight bytes as one number, most significant first.
        return LeastTcb(cpu, snp.tcb_of(_bytes_of(record["hexstring"].encode(errors="replace"), 8, "TCB version")[::-1], cpu.product))
    if components.keys() != wanted or any(type(part) is not int or not 0 <= part <= 255 for part in components.values()):
        raise ConfigurationError(f"TCB version of {cpu.product} needs {', '.join(sorted(wanted))}, 0 to 255 each, and nothing else")
    return LeastTcb(cpu, Tcb(**components))


def _feeds(key: bytes, value: bytes) -> dict[str, int]:
    try:
        return {feed: uvm.parse_svn(record["svn"]) for feed, record in _json(value, "UVM endorsement").items()}
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f'UVM endorsement of {key.decode(errors="replace")[:200]} is not of the form {{"FEED": {{"svn": "100"}}}}'
        ) from None


def _json(value: bytes, what: str) -> dict[str, Any]:
    try:
        record = json.loads(value)
    except (ValueError, RecursionError):
        record = None
    if type(record) is not dict:
        raise ConfigurationError(f"a {what} that is no JSON object: {value[:100]!r}")
    return record


def _bytes_of(key: bytes, size: int, what: str) -> bytes:
    text = key.decode(errors="replace")
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        raise ConfigurationError(f"{what} {text[:100]!r} is not {2 * size} lower-case hex characters")
    return bytes.fromhex(text)


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"a key of the join policy's tables is not UTF-8: {key[:32].hex()}; the members have to remove it"
        ) from None
