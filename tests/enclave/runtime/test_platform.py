"""What an enclave looks at before it makes a key, and what it refuses to run on."""

from pathlib import Path
from typing import Any

import cbor2
import pytest

from ledgerd.enclave.runtime.platform import Paths, PlatformError, prepare
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import make_root

ROOT = make_root()
NOW = 1_780_000_000.0


class Rig:
    """A platform made of files; its security module answers as `answers` says, otherwise as a simulated one does."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(*(str(folder / name) for name in Paths._fields))
        for path, text in zip(self.paths, ("nsm-hwrng\n", "kvm-clock\n", ""), strict=True):
            Path(path).write_text(text)
        self.answers: dict[str, Any] = {}
        self.wall_clock = NOW
        self.random = b""
        self._module = SimulatedNsm(ROOT, {0: b"\x10" * 48, 1: b"\x11" * 48}, clock=lambda: NOW)

    def request(self, request: bytes) -> bytes:
        message = cbor2.loads(request)
        name = message if isinstance(message, str) else next(iter(message))
        if name in self.answers:
            return cbor2.dumps(self.answers[name])
        answer = self._module.request(request)
        if name == "GetRandom":
            self.random = cbor2.loads(answer)["GetRandom"]["random"]
        return answer

    def prepare(self, is_device: bool = True) -> list[tuple[str, str]]:
        return prepare(self, is_device=is_device, paths=self.paths, wall_clock=lambda: self.wall_clock)

    def describe(self, **changes: Any) -> None:
        """Let the module describe itself otherwise."""
        said = cbor2.loads(self._module.request(cbor2.dumps("DescribeNSM")))
        self.answers["DescribeNSM"] = {"DescribeNSM": {**said["DescribeNSM"], **changes}}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_real_enclaves_platform_is_reported_in_one_line_without_a_warning(rig: Rig) -> None:
    ((level, text),) = rig.prepare()
    assert level == "info"
    assert "random source nsm-hwrng, 256 bytes of the module's mixed in" in text
    assert "clock source kvm-clock, wall clock 0 ms from the module's" in text
    assert "-enc" in text


def test_the_modules_random_bytes_reach_the_kernels_pool_and_nobody_else(rig: Rig) -> None:
    said = rig.prepare()
    assert len(rig.random) == 256
    assert Path(rig.paths.pool).read_bytes() == rig.random
    assert rig.random.hex()[:16] not in repr(said)


def test_the_kernels_own_pool_takes_them(rig: Rig) -> None:
    rig.paths = rig.paths._replace(pool="/dev/urandom")
    assert "256 bytes of the module's mixed in" in rig.prepare()[0][1]


@pytest.mark.parametrize(("name", "text"), [("random_source", "tpm-rng"), ("clock_source", "tsc")])
def test_another_source_is_a_warning_on_a_device_only(rig: Rig, name: str, text: str) -> None:
    Path(getattr(rig.paths, name)).write_text(f"{text}\n")
    levels = [level for level, _ in rig.prepare()]
    assert levels == ["info", "warning"]
    assert text in rig.prepare()[1][1]
    assert [level for level, _ in rig.prepare(is_device=False)] == ["info"]


def test_a_source_that_cannot_be_read_is_unknown(rig: Rig) -> None:
    Path(rig.paths.random_source).unlink()
    assert rig.prepare()[1] == ("warning", "the kernel's random source is unknown, not nsm-hwrng; the module's own bytes were mixed in")


@pytest.mark.parametrize(("skew_seconds", "warned"), [(60.0, False), (60.001, True), (-60.0, False), (-60.001, True), (-1e9, True)])
def test_a_wall_clock_far_from_the_documents_is_told_and_not_used(rig: Rig, skew_seconds: float, warned: bool) -> None:
    rig.wall_clock = NOW + skew_seconds
    found = rig.prepare()
    assert (len(found) == 2) is warned
    assert f"{round(skew_seconds * 1000)} ms from the" in found[-1][1]


def test_a_pool_that_takes_nothing_ends_an_enclave_on_a_device(rig: Rig) -> None:
    rig.paths = rig.paths._replace(pool="/nowhere/urandom")
    with pytest.raises(PlatformError, match="cannot be mixed in: /nowhere/urandom: No such file"):
        rig.prepare()
    assert rig.prepare(is_device=False)[1][0] == "warning"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"Error": "InternalError"}, "answers GetRandom with InternalError"),
        ({"GetRandom": {"random": b""}}, "no random bytes"),
        (1, "form"),
    ],
)
def test_a_module_without_randomness_is_refused_everywhere(rig: Rig, answer: Any, reason: str) -> None:
    rig.answers["GetRandom"] = answer
    for is_device in (True, False):
        with pytest.raises(PlatformError, match=reason):
            rig.prepare(is_device)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": "SHA256"}, "32 PCRs of 'SHA256'"),
        ({"max_pcrs": 16}, "16 PCRs"),
        ({"locked_pcrs": [0, 1, 2, *range(4, 16)]}, "PCR3 is not locked"),
        ({"locked_pcrs": list(range(17))}, "PCR16 is locked already"),
    ],
)
def test_a_module_that_cannot_attest_a_configuration_is_refused(rig: Rig, changes: dict[str, Any], reason: str) -> None:
    rig.describe(**changes)
    with pytest.raises(PlatformError, match=reason):
        rig.prepare()
    assert Path(rig.paths.pool).read_bytes() == b"", "looked at before anything is done"


@pytest.mark.parametrize(
    ("pcr", "reason"),
    [
        ({"lock": False, "data": b"\x01" * 48}, "PCR16 is not free"),
        ({"lock": True, "data": bytes(48)}, "PCR16 is not free"),
        ({"lock": False, "data": bytes(32)}, "a PCR of 32 bytes"),
    ],
)
def test_a_register_that_something_else_has_used_is_refused(rig: Rig, pcr: dict[str, Any], reason: str) -> None:
    rig.answers["DescribePCR"] = {"DescribePCR": pcr}
    with pytest.raises(PlatformError, match=reason):
        rig.prepare()
    assert Path(rig.paths.pool).read_bytes() == b"", "looked at before anything is done"


def test_a_document_that_is_none_is_refused(rig: Rig) -> None:
    rig.answers["Attestation"] = {"Attestation": {"document": b"\x80"}}
    with pytest.raises(PlatformError, match="cannot be used"):
        rig.prepare()
