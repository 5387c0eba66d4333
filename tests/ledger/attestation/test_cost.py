"""What a document costs, in P-384 verifications and in calls: milliseconds depend on the machine and its mood, these do not."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import pytest

from ledgerd.ledger.attestation import nitro
from ledgerd.ledger.attestation.roots import parse_roots
from support.documents import LEAF, MADE_AT_MS, forge

FORGED: Final = forge()
ROOTS: Final = parse_roots([FORGED.root_pem])
SIGNATURES: Final = 5
COLD_CALLS_MAX: Final = 1_000  # measured: 860, which take as long as one verification
WARM_CALLS_MAX: Final = 460  # where the chain is known; measured: 387, a quarter of a verification


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No link of a chain is known before or after."""
    nitro._issued.cache_clear()
    yield
    nitro._issued.cache_clear()


def judge(document: bytes = FORGED.document) -> None:
    nitro.verify(document, ROOTS, at_ms=MADE_AT_MS)


def calls(work: Callable[[], None], *events: str) -> Counter[str]:
    """Count calls, by name: those of the library's functions, unless `events` of `sys.setprofile` say otherwise."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, function: Any) -> None:
        if event in (events or ("c_call",)):
            counted[frame.f_code.co_name if event == "call" else function.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def test_a_document_of_an_unknown_instance_takes_five_verifications() -> None:
    """Four certificates below the root, which is believed because it is pinned, and the document: nothing is verified twice."""
    counted = calls(judge)
    assert (counted["verify"], counted["load_der_x509_certificate"]) == (SIGNATURES, 5)
    assert counted["verify_directly_issued_by"] == 0


def test_another_document_of_the_same_leaf_takes_one() -> None:
    judge()
    counted = calls(judge)
    assert (counted["verify"], counted["load_der_x509_certificate"]) == (1, 0)


def test_a_new_leaf_of_a_known_instance_takes_two() -> None:
    """A leaf lives three hours, its instance's certificate a day."""
    judge()
    known = nitro._issued.cache_info().currsize
    nitro._issued.cache_clear()
    issuer = None
    for der in FORGED.bundle:
        issuer = nitro._issued(der, issuer)
    assert nitro._issued.cache_info().currsize == known - 1 == LEAF
    assert calls(judge)["verify"] == 2


def test_the_rest_of_the_work_is_short() -> None:
    """Calls of functions, Python's and the library's: the same on every machine in every mood, and whatever grows takes some."""
    made = sum(calls(judge, "call", "c_call").values())
    assert made <= COLD_CALLS_MAX
    made = sum(calls(judge, "call", "c_call").values())
    assert made <= WARM_CALLS_MAX
