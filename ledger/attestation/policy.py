"""Judgement: is this attested enclave one that we want, now or then?

Two calls that cannot be confused. `verify_now` demands a nonce that the caller made and a time that it trusts; `verify_recorded`
has neither, and judges at the time that the ledger recorded. The single checks are public for tools that explain a document.
Not here: proof of origin (`nitro`), which PCRs an image has (`measurement`), who may change the allow-list (`governance`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.measurement import CONFIGURATION_PCR, ZERO, Measurement, configuration_pcr, instance_pcr
from ledgerd.ledger.attestation.nitro import Attestation, decode, verify_decoded
from ledgerd.ledger.attestation.roots import Root
from ledgerd.ledger.errors import UsageError

AGE_MS_MAX_DEFAULT: Final = 300_000  # a join waits for a round trip or two; five minutes bear a slow machine and a drifting clock
CLOCK_SKEW_MS_MAX: Final = 60_000  # hypervisor clocks drift by seconds a week
NONCE_SIZE_BYTES_MIN: Final = 16  # below, nonces could repeat by chance


@dataclass(frozen=True, slots=True)
class Policy:
    """What a verifier accepts. There is no switch for debug enclaves, and no way to accept any root or any image.

    Attributes:
        roots: Where chains may end; see `roots.parse_roots`.
        measurements: The allow-list; empty accepts nobody.
        age_ms_max: How old a document may be in `verify_now`, milliseconds.
    """

    roots: tuple[Root, ...]
    measurements: frozenset[Measurement]
    age_ms_max: int = AGE_MS_MAX_DEFAULT


def verify_now(
    document: bytes,
    policy: Policy,
    *,
    now_ms: int,
    nonce: bytes,
    public_key: bytes | None,
    user_data: bytes | None,
    configuration: bytes | None = None,
) -> Attestation:
    """Verify a document that was made for this caller, just now.

    Certificates are judged at `now_ms`, or at the document's own signed time where that is later: a verifier whose clock is a second
    behind would otherwise refuse what the hypervisor certified a moment ago, and `check_age` bounds how much later it may be.

    Args:
        document: As the security module returned it.
        policy: What to accept.
        now_ms: Milliseconds since 1970 by a clock that the caller trusts; inside an enclave, its own document's, never the host's.
        nonce: What this caller made for this one document, at least 16 bytes; the caller forgets it after this call.
        public_key: The key that must be attested; None if the caller takes it from the answer, and binds it itself.
        user_data: The data that must be attested; None if the caller judges the answer's.
        configuration: Digest of the configuration that PCR16 must measure; None where the caller knows of none.
    Raises: AttestationError: Any of `errors.RULES`. UsageError: The nonce is too short.
    """
    if len(nonce) < NONCE_SIZE_BYTES_MIN:
        raise UsageError(f"a nonce of {len(nonce)} bytes can be guessed or repeat; make at least {NONCE_SIZE_BYTES_MIN} random ones")
    said = decode(document)
    attestation = verify_decoded(said, policy.roots, at_ms=max(now_ms, said.timestamp_ms))
    _check_image(attestation, policy)
    check_nonce(attestation, nonce)
    _check_bindings(attestation, public_key, user_data, configuration)
    check_age(attestation, now_ms, policy.age_ms_max)
    return attestation


def verify_recorded(
    document: bytes,
    policy: Policy,
    *,
    at_ms: int,
    public_key: bytes | None = None,
    user_data: bytes | None = None,
    configuration: bytes | None = None,
) -> Attestation:
    """Verify a document that the ledger holds, as of the time at which the ledger recorded it. Proves nothing about now.

    Certificates are judged at `at_ms`, or at the document's own signed time where that is later by no more than clocks drift; a document
    made after that is refused.

    Args:
        document: As recorded.
        policy: What was accepted then.
        at_ms: When it was recorded, milliseconds since 1970.
        public_key, user_data, configuration: As in `verify_now`.
    Raises: AttestationError: Any of `errors.RULES` but `nonce`.
    """
    said = decode(document)
    is_drift = at_ms < said.timestamp_ms <= at_ms + CLOCK_SKEW_MS_MAX
    attestation = verify_decoded(said, policy.roots, at_ms=said.timestamp_ms if is_drift else at_ms)
    _check_image(attestation, policy)
    _check_bindings(attestation, public_key, user_data, configuration)
    check_age(attestation, at_ms, None)
    return attestation


def _check_image(attestation: Attestation, policy: Policy) -> None:
    check_debug(attestation)
    check_measurement(attestation, policy.measurements)
    check_module(attestation)


def _check_bindings(attestation: Attestation, public_key: bytes | None, user_data: bytes | None, configuration: bytes | None) -> None:
    if public_key is not None:
        check_public_key(attestation, public_key)
    if user_data is not None:
        check_user_data(attestation, user_data)
    if configuration is not None:
        check_configuration(attestation, configuration)


def check_debug(attestation: Attestation) -> None:
    """Refuse an enclave in debug mode (rule `debug`). PCR3 and PCR4 are not zero in one, so only PCR0 and PCR1 tell."""
    if attestation.debug:
        raise AttestationError(
            "debug",
            f"{attestation.module_id} runs in debug mode: PCR0 or PCR1 is zero",
            "an enclave in production mode",
            "start the enclave without --debug-mode and --attach-console",
        )


def check_measurement(attestation: Attestation, measurements: Iterable[Measurement]) -> None:
    """Refuse an image that is in no line of the allow-list as a whole (rule `measurement`)."""
    pcrs = attestation.pcrs
    lines = list(measurements)
    for line in lines:
        if (
            pcrs.get(0) == line.pcr0 != ZERO
            and pcrs.get(1) == line.pcr1 != ZERO
            and pcrs.get(2) == line.pcr2
            and (line.pcr8 is None or pcrs.get(8) == line.pcr8)
            and (line.pcr3 is None or pcrs.get(3) == line.pcr3)
        ):
            return
    expected = "; ".join(f"PCR0 {line.pcr0.hex()}" for line in lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
    raise AttestationError(
        "measurement",
        f"{attestation.module_id} runs an image with " + ", ".join(f"PCR{i} {pcrs.get(i, b'').hex() or 'absent'}" for i in (0, 1, 2, 3, 8)),
        expected or "an image of the allow-list, which is empty",
        "run an image that the members accepted, or propose to accept this one",
    )


def check_pcrs(attestation: Attestation, expected: Mapping[int, bytes]) -> None:
    """Refuse an enclave of which one of these PCRs, by index, has another value or is not locked (rule `measurement`)."""
    wrong = [index for index, value in sorted(expected.items()) if attestation.pcrs.get(index) != value]
    if wrong:
        raise AttestationError(
            "measurement",
            f"{attestation.module_id} with " + ", ".join(f"PCR{i} {attestation.pcrs.get(i, b'').hex() or 'absent'}" for i in wrong),
            ", ".join(f"PCR{i} {expected[i].hex()}" for i in wrong),
            "run the image, role or instance that was asked for",
        )


def check_module(attestation: Attestation) -> None:
    """Refuse a document whose PCR4 is not the measurement of the instance that `module_id` names (rule `module`)."""
    instance, mark, enclave = attestation.module_id.rpartition("-enc")
    if not mark or not enclave or attestation.pcrs.get(4) != instance_pcr(instance):
        raise AttestationError(
            "module",
            f"module {attestation.module_id} with PCR4 {attestation.pcrs.get(4, b'').hex() or 'absent'}",
            f"PCR4 {instance_pcr(instance).hex()} of instance {instance!r}",
            "report this document: no genuine one is known to differ",
        )


def check_nonce(attestation: Attestation, nonce: bytes) -> None:
    """Refuse a document that was not made for this nonce (rule `nonce`)."""
    if attestation.nonce is None or not compare_digest(attestation.nonce, nonce):
        raise AttestationError(
            "nonce",
            _short(attestation.nonce),
            _short(nonce),
            "the document is a replay, or the challenge is stale: ask for a new challenge",
        )


def check_public_key(attestation: Attestation, public_key: bytes) -> None:
    """Refuse a document that attests another key (rule `public_key`)."""
    if attestation.public_key is None or not compare_digest(attestation.public_key, public_key):
        raise AttestationError(
            "public_key",
            _short(attestation.public_key),
            _short(public_key),
            "somebody else's document was presented: do not trust the sender",
        )


def check_user_data(attestation: Attestation, user_data: bytes) -> None:
    """Refuse a document that attests other data (rule `user_data`)."""
    if attestation.user_data is None or not compare_digest(attestation.user_data, user_data):
        raise AttestationError(
            "user_data",
            _short(attestation.user_data),
            _short(user_data),
            "both sides must have the same configuration and protocol version: compare them",
        )


def check_configuration(attestation: Attestation, digest: bytes) -> None:
    """Refuse an enclave whose PCR16 is absent or measures another configuration than this digest's (rule `configuration`)."""
    seen, expected = attestation.pcrs.get(CONFIGURATION_PCR), configuration_pcr(digest)
    if seen is None or not compare_digest(seen, expected):
        raise AttestationError(
            "configuration",
            f"PCR16 {'absent' if seen is None else seen.hex()}",
            f"PCR16 {expected.hex()}, which measures the configuration with digest {digest.hex()}",
            "the enclave runs with another configuration than it was said to, or with none yet: do not trust the sender",
        )


def check_age(attestation: Attestation, at_ms: int, age_ms_max: int | None) -> None:
    """Refuse a document made more than `age_ms_max` before `at_ms` (None: any time before), or after it (rule `age`)."""
    age_ms = at_ms - attestation.timestamp_ms
    if age_ms < -CLOCK_SKEW_MS_MAX or (age_ms_max is not None and age_ms > age_ms_max + CLOCK_SKEW_MS_MAX):
        raise AttestationError(
            "age",
            f"made at {attestation.timestamp_ms} ms since 1970, {age_ms} ms before {at_ms}",
            f"an age of {-CLOCK_SKEW_MS_MAX} to {'any' if age_ms_max is None else age_ms_max + CLOCK_SKEW_MS_MAX} ms",
            "get a new document; if a new one is refused too, compare both clocks",
        )


def _short(value: bytes | None) -> str:
    if value is None:
        return "none"
    return f"{value[:32].hex()}{'...' if len(value) > 32 else ''} ({len(value)} bytes)"
