"""What the enclave's process makes sure of before it makes a key: randomness, the security module, the clock.

Runs once, before the loop and before anything has drawn randomness, so it may wait. The module's random bytes go into the kernel's pool by
a write to /dev/urandom, which credits nothing, so a bad source can only fail to help; then, where this process may, the kernel is told to
reseed from the pool at once. That reaches every user: libsodium asks the kernel for each draw, and the OpenSSL inside `cryptography` seeds
its generator from the kernel when the first key is made, which is after this. (`cryptography` offers no way to add entropy, on purpose.)
Refused: a security module that cannot be one, and on a real device one that gives no randomness. Reported, as warnings where they are not a
real enclave's: the kernel's random source, its clock source, its wall clock. Nothing here is decided by the wall clock: the time of this
enclave is its attestation document's (`enclave.clock`), carried on by the monotonic clock, which is why the clock source matters.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple

from ledgerd.enclave.nsm import Description, Pcr, attestation, describe, describe_pcr, get_random
from ledgerd.enclave.runtime.nsm import NsmTransport
from ledgerd.ledger.attestation.measurement import CONFIGURATION_PCR, ZERO
from ledgerd.ledger.attestation.nitro import decode
from ledgerd.ledger.attestation.policy import CLOCK_SKEW_MS_MAX
from ledgerd.ledger.errors import HostError, LedgerdError

RANDOM_SOURCE: Final = "nsm-hwrng"
CLOCK_SOURCE: Final = "kvm-clock"
NAME_SIZE_BYTES_MAX: Final = 64
_RNDRESEEDCRNG: Final = 0x5207  # _IO('R', 7): reseed from the pool now, not within the minute; for CAP_SYS_ADMIN only


class PlatformError(HostError):
    """What this enclave runs on is not what it must be; nothing was begun."""

    code: ClassVar[str] = "PlatformError"


class Paths(NamedTuple):
    """Where the kernel tells what is looked at; others in tests."""

    random_source: str = "/sys/class/misc/hw_random/rng_current"
    clock_source: str = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    pool: str = "/dev/urandom"


PATHS: Final = Paths()


def prepare(
    nsm: NsmTransport, *, is_device: bool, paths: Paths = PATHS, wall_clock: Callable[[], float] = time.time
) -> list[tuple[str, str]]:
    """Mix in randomness, and look at the platform.

    Args:
        nsm: The security module.
        is_device: It is the device of a real enclave, or of a virtual machine that has one; False for a simulator behind a socket.
        paths: Where to look.
        wall_clock: Seconds since 1970, as the kernel knows them.
    Returns: What was found, as (level, text) for the operator; never a random byte.
    Raises: PlatformError: The security module is none, or gives no randomness, or it cannot be mixed in on a device.
    """
    warnings: list[str] = []
    try:
        module = describe(nsm)
        _check(module)
        _check_free(describe_pcr(nsm, CONFIGURATION_PCR))
        mixed, why_not = _mix(get_random(nsm), paths.pool)
        document = decode(attestation(nsm, user_data=None, nonce=None, public_key=None))
    except LedgerdError as error:
        if isinstance(error, PlatformError):
            raise
        raise PlatformError(f"the security module cannot be used: {error}; is it a Nitro Enclave's /dev/nsm?") from None
    if why_not:
        if is_device:
            raise PlatformError(f"the security module's randomness cannot be mixed in: {paths.pool}: {why_not}; boot an unchanged image")
        warnings.append(f"the security module's randomness was not mixed in: {paths.pool}: {why_not}")
    random_source, clock_source = _name(paths.random_source), _name(paths.clock_source)
    if is_device and random_source != RANDOM_SOURCE:
        warnings.append(f"the kernel's random source is {random_source}, not {RANDOM_SOURCE}; the module's own bytes were mixed in")
    if is_device and clock_source != CLOCK_SOURCE:
        warnings.append(f"the clock source is {clock_source}, not {CLOCK_SOURCE}: attested time is carried on by it, and may drift")
    skew_ms = round(wall_clock() * 1000) - document.timestamp_ms
    if abs(skew_ms) > CLOCK_SKEW_MS_MAX:
        warnings.append(
            f"the kernel's wall clock is {skew_ms} ms from the security module's; this enclave goes by the module's: look at the machine's"
        )
    version = ".".join(map(str, module.version))
    found = (
        f"platform: module {module.module_id}, version {version}; random source {random_source}, {mixed} bytes of the module's mixed in; "
        f"clock source {clock_source}, wall clock {skew_ms} ms from the module's"
    )
    return [("info", found), *(("warning", text) for text in warnings)]


def _check(module: Description) -> None:
    """Refuse what cannot attest a configuration: boot PCRs that still change, or an application's PCR that no longer does."""
    if module.digest != "SHA384" or module.max_pcrs <= CONFIGURATION_PCR:
        raise PlatformError(f"the security module has {module.max_pcrs} PCRs of {module.digest[:16]!r}; a Nitro Enclave's has 32 of SHA384")
    open_ones = sorted(set(range(CONFIGURATION_PCR)) - set(module.locked_pcrs))
    if open_ones:
        raise PlatformError(f"PCR{open_ones[0]} is not locked: anything in this enclave could change what it is measured as")
    if CONFIGURATION_PCR in module.locked_pcrs:
        raise PlatformError(f"PCR{CONFIGURATION_PCR} is locked already: something else in this image uses it; boot the enclave anew")


def _check_free(pcr: Pcr) -> None:
    """Refuse an application's PCR that has measured something: the configuration would be attested as another one."""
    if pcr.value != ZERO or pcr.locked:
        raise PlatformError(f"PCR{CONFIGURATION_PCR} is not free: something else in this image measured into it; boot an unchanged image")


def _mix(random: bytes, pool: str) -> tuple[int, str]:
    """Write into the kernel's pool; how many bytes, and why it could not be done if it could not."""
    try:
        descriptor = os.open(pool, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return 0, error.strerror or "cannot be opened"
    try:
        written = os.write(descriptor, random)
        with contextlib.suppress(OSError):  # not allowed in a sandbox: then the kernel takes the pool in by itself, within a minute
            fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
        return written, "" if written == len(random) else f"took {written} of {len(random)} bytes"
    except OSError as error:
        return 0, error.strerror or "cannot be written"
    finally:
        os.close(descriptor)


def _name(path: str) -> str:
    """One short word of the kernel's, or `unknown`."""
    try:
        with open(path, "rb") as file:
            text = file.read(NAME_SIZE_BYTES_MAX).decode("ascii", "replace").strip()
    except OSError:
        return "unknown"
    return text if text and text.isprintable() else "unknown"
