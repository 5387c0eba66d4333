"""One cause for each error of `nitro-cli`: what its codes mean to an operator, what to do next, and whether to try again.

`nitro-cli` prints blocks that begin `[ E27 ] ...` on standard error. A failed start often prints two: the cause, and then E39, that the
enclave's process no longer answers, which is only what follows from it. So the first that is not E39 is the cause.
Source: src/common/document_errors.rs of aws-nitro-enclaves-cli, and AWS's page on its error codes. The words are ours.
"""

import re
from typing import Final, NamedTuple

_CODE: Final = re.compile(r"\[ (E\d{2}) \] ?([^\n]*)")
_CONSEQUENCE: Final = "E39"
_TEXT_SIZE_MAX: Final = 300
ALLOCATOR: Final = "/etc/nitro_enclaves/allocator.yaml"
RESTART: Final = "sudo systemctl restart nitro-enclaves-allocator.service"


class Cause(NamedTuple):
    """What is wrong.

    Attributes:
        code: `E00` to `E99`; empty where `nitro-cli` gave none.
        text: One clause.
        advice: What the operator can do next.
        passes: It may be over in a moment, so the same command is worth another try.
    """

    code: str
    text: str
    advice: str
    passes: bool = False


_OPTIONS: Final = ("nitro-cli does not understand an option that it was given", "update it: aws-nitro-enclaves-cli 1.2 or newer")
_PROCESS: Final = ("the process that holds the enclave cannot be started or reached", "see /var/log/nitro_enclaves/nitro_enclaves.log")
_SETUP: Final = (
    "nitro-cli's folders in /run and /var/log cannot be used",
    "install aws-nitro-enclaves-cli anew, add this user to group `ne`, and log in again",
)
_MEMORY: Final = (
    "the memory that the enclave was promised cannot be given to it",
    f"raise memory_mib in {ALLOCATOR}, then `{RESTART}`; after a reboot memory is least fragmented",
)
_IMAGE: Final = ("the image cannot be loaded", "it is damaged, of another architecture, or too large for its memory: build it anew")
_DRIVER: Final = ("the driver refused a step of the start", "see `dmesg` and /var/log/nitro_enclaves; if it stays, reboot the instance")
_NOT_FOR_STARTS: Final = ("nitro-cli failed in something that no start needs", "run the command by hand, and update nitro-cli")

_CAUSES: Final[dict[str, tuple[str, str, bool]]] = {
    **dict.fromkeys(("E01", "E02", "E03", "E14", "E20", "E47"), (*_OPTIONS, False)),
    **dict.fromkeys(("E04", "E05", "E06", "E08", "E09", "E10", "E11", "E12", "E13", "E15", "E16", "E17"), (*_PROCESS, True)),
    **dict.fromkeys(("E07", "E18", "E40", "E56"), (*_SETUP, False)),
    "E19": (
        "a file cannot be opened: the image, or /dev/nitro_enclaves",
        "see that the image's path is right and readable, and that the instance was launched with --enclave-options Enabled=true",
        False,
    ),
    "E21": ("a CPU that was asked for is not in the pool", f"change cpu_pool in {ALLOCATOR}, then `{RESTART}`", False),
    "E22": (
        "the pool has fewer free CPUs than the enclave is to have",
        f"raise cpu_count in {ALLOCATOR}, then `{RESTART}`; or lower nitro.cpus; or end another enclave (`nitro-cli describe-enclaves`)",
        True,  # another enclave may be about to end
    ),
    **dict.fromkeys(("E23", "E24"), ("the list of CPUs cannot be read", f"look at cpu_pool in {ALLOCATOR} and at `lscpu`", False)),
    "E26": ("the enclave's memory is too small for the image", "raise nitro.memory_mb to at least four times the image's size", False),
    "E27": (
        "fewer huge pages are free than the enclave is to have memory",
        f"raise memory_mib in {ALLOCATOR}, then `{RESTART}`; or lower nitro.memory_mb; or end another enclave",
        True,
    ),
    "E28": (
        "the driver makes no further enclave",
        "four is the limit of an instance (`nitro-cli describe-enclaves`); see that enclaves are enabled for this instance",
        True,
    ),
    **dict.fromkeys(("E25", "E31", "E34", "E42", "E43"), (*_MEMORY, False)),
    **dict.fromkeys(("E29", "E30", "E33", "E37", "E54", "E55"), (*_DRIVER, True)),
    "E32": ("a CPU cannot be given to the enclave", "enclaves take full cores: give nitro.cpus an even number, and see `dmesg`", False),
    "E35": (*_IMAGE, False),
    "E36": (
        "the image was loaded and did not boot",
        "give it more memory (nitro.memory_mb), or start it with attestation.debug = true and read its console in the node's log",
        True,
    ),
    **dict.fromkeys(
        ("E38", "E39", "E41"),
        (
            "an enclave's process does not answer nitro-cli",
            "it may belong to another user, or have died and left a socket in /run/nitro_enclaves: `nitro-cli describe-enclaves` as root",
            True,
        ),
    ),
    **dict.fromkeys(("E44", "E45", "E46"), ("the console cannot be read", "only enclaves in debug mode have one", False)),
    **dict.fromkeys(("E48", "E49", "E50", "E51", "E52", "E53", "E57", "E58"), (*_NOT_FOR_STARTS, False)),
}


def cause_of(errors: str) -> Cause:
    """Find the one cause in what `nitro-cli` printed on standard error; any text, also none."""
    found = _CODE.findall(errors)
    if not found:
        said = next((line.strip() for line in errors.splitlines() if line.strip()), "")
        return Cause("", f"it says {said[:_TEXT_SIZE_MAX]!r}" if said else "it says nothing", "run the command by hand")
    code, said = next((item for item in found if item[0] != _CONSEQUENCE), found[0])
    known = _CAUSES.get(code)
    if known is None:
        return Cause(code, f"it says {said.strip()[:_TEXT_SIZE_MAX]!r}", "ledgerd does not know this code; see AWS's page on it")
    return Cause(code, *known)
