"""`ccf.crypto`: certificates, alone and in chains."""

from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Clock
from support.script_crypto import DECISION, NOW_S, called, certificate, crypto, key, public, refused, thrown

ROOT = certificate("root", "root", "p384", "p384", authority=True)
MIDDLE = certificate("middle", "root", "p521", "p384", authority=True, path=0)
LEAF = certificate("leaf", "middle", "p256", "p521")
OTHER_ROOT = certificate("root", "root", "rsa", "rsa", authority=True)


def at(seconds: int) -> dict[str, Any]:
    return {"access": Access.APP_RW, "clock": Clock((NOW_S + seconds) * 1000, None)}


def is_valid(chain: str, trusted: str, where: dict[str, Any] = DECISION) -> bool:
    found = crypto("isValidX509CertChain", chain, trusted, where=where)
    assert found is called("isValidX509CertChain", chain, trusted, where=where)
    assert isinstance(found, bool)
    return found


def test_the_identity_of_a_certificate_is_the_digest_of_its_bytes() -> None:
    for pem in (ROOT, LEAF, f"\n\n{LEAF}", LEAF + ROOT):
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
        assert called("pemToId", pem, where=DECISION) == sha256(der).hexdigest()
    for wrong in ("", "text", public("p256"), LEAF[:200], LEAF.replace("CERTIFICATE", "X")):
        assert thrown("ccf.pemToId(args[0])", wrong).startswith("Error: Failed to parse PEM: no certificate: ")
    assert thrown("ccf.pemToId()") == "TypeError: Passed 0 arguments, but expected 1"
    assert thrown("ccf.pemToId(args[0])", b"bytes") == "TypeError: pem must be a string"


def test_a_bundle_is_one_or_more_certificates_and_none_that_cannot_be_read() -> None:
    for pem in (LEAF, ROOT + MIDDLE + LEAF, certificate("gone", "gone", days=-3), LEAF * 50):
        assert crypto("isValidX509CertBundle", pem, where=DECISION) is True
        assert called("isValidX509CertBundle", pem) is True
    cut = LEAF.replace("\n", "", 1)
    for wrong in (
        "",
        "text",
        public("p256"),
        LEAF[:100],
        LEAF + LEAF[:100] + "\n-----END CERTIFICATE-----\n",
        LEAF + cut[:70],
        LEAF + public("p256"),
        LEAF[:300] + LEAF,
    ):
        assert crypto("isValidX509CertBundle", wrong, where=DECISION) is False, wrong
    assert refused("isValidX509CertBundle", 7) == "TypeError: pem must be a string"
    assert refused("isValidX509CertBundle", "-" * ((1 << 20) + 1)).startswith("RangeError: pem has 1048577 characters")


def test_a_chain_leads_to_what_is_trusted() -> None:
    assert is_valid(LEAF + MIDDLE, ROOT)
    assert is_valid(LEAF + MIDDLE + ROOT, ROOT)
    assert is_valid(LEAF + MIDDLE, OTHER_ROOT + ROOT)
    assert is_valid(LEAF + OTHER_ROOT + MIDDLE, ROOT), "what is in between may come in any order, with others"
    assert is_valid(LEAF, MIDDLE), "a trusted certificate need not be a root"
    assert is_valid(MIDDLE, MIDDLE)
    assert is_valid(ROOT, ROOT)


def test_a_chain_that_leads_elsewhere_is_not_valid() -> None:
    assert not is_valid(LEAF, ROOT), "one is missing"
    assert not is_valid(MIDDLE + LEAF, LEAF)
    assert not is_valid(LEAF + MIDDLE, OTHER_ROOT), "the same name, another key"
    assert not is_valid(LEAF + MIDDLE + OTHER_ROOT, OTHER_ROOT)
    assert not is_valid(ROOT, LEAF)


def test_only_an_authority_issues_and_only_as_deep_as_it_may() -> None:
    no_authority = certificate("middle", "root", "p521", "p384")
    assert not is_valid(LEAF + no_authority, ROOT)
    deeper = certificate("deeper", "middle", "rsa", "p521", authority=True)
    below = certificate("leaf", "deeper", "p256", "rsa")
    assert not is_valid(below + deeper + MIDDLE, ROOT), "the path length of `middle` is 0"


def test_only_an_authority_is_trusted() -> None:
    """As in CCF's own tests of applications."""
    assert not is_valid(LEAF, LEAF)
    assert not is_valid(LEAF + MIDDLE, ROOT + LEAF), "not even beside one that would do"
    assert not is_valid(LEAF, certificate("middle", "root", "p521", "p384", authority=False))
    own = certificate("own", "own")
    assert not is_valid(own, own)
    for may_issue in (True, False):
        pem = certificate("own", "own", authority=True, may_issue=may_issue)
        assert is_valid(pem, pem) is may_issue
        assert not is_valid(LEAF, certificate("middle", "root", "p521", "p384", may_issue=may_issue))


def test_one_from_before_certificates_could_say_so_is_an_authority_if_it_has_signed_itself() -> None:
    def sequence(content: bytes) -> bytes:
        return b"\x30\x82" + len(content).to_bytes(2, "big") + content

    def old(subject: str, issuer: str) -> str:
        new = x509.load_pem_x509_certificate(certificate(subject, issuer, "rsa", "rsa").encode())
        version = b"\xa0\x03\x02\x01\x02"
        assert new.tbs_certificate_bytes[4:9] == version
        signed = sequence(new.tbs_certificate_bytes[9:])
        signature = key("rsa").sign(signed, padding.PKCS1v15(), hashes.SHA256())
        algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
        bits = b"\x03\x82" + (len(signature) + 1).to_bytes(2, "big") + b"\0" + signature
        return x509.load_der_x509_certificate(sequence(signed + algorithm + bits)).public_bytes(Encoding.PEM).decode()

    leaf = certificate("leaf", "old", "p256", "rsa")
    assert x509.load_pem_x509_certificate(old("old", "old").encode()).version is x509.Version.v1
    assert is_valid(leaf, old("old", "old"))
    assert not is_valid(leaf, old("old", "other"))


def test_every_certificate_must_be_valid_at_the_script_s_time() -> None:
    assert is_valid(LEAF + MIDDLE, ROOT, at(0))
    assert is_valid(LEAF + MIDDLE, ROOT, at(86_399))
    assert not is_valid(LEAF + MIDDLE, ROOT, at(86_401))
    assert not is_valid(LEAF + MIDDLE, ROOT, at(-86_401))
    expired = certificate("middle", "root", "p521", "p384", authority=True, days=-1)
    assert not is_valid(LEAF + expired, ROOT)
    assert not is_valid(LEAF + MIDDLE, certificate("root", "root", "p384", "p384", authority=True, days=-1))


def test_where_there_is_no_time_dates_are_not_judged_but_everything_else_is() -> None:
    timeless = {"access": Access.GOV_RO, "clock": Clock()}
    old = certificate("middle", "root", "p521", "p384", authority=True, days=-1)
    assert is_valid(LEAF + MIDDLE, ROOT, timeless)
    assert is_valid(LEAF + old, ROOT, timeless)
    assert not is_valid(LEAF + old, OTHER_ROOT, timeless)
    assert not is_valid(LEAF, ROOT, timeless)


@pytest.mark.parametrize(
    "pem", ["", "text", LEAF[:100], LEAF + LEAF[:300] + "\n-----END CERTIFICATE-----\n"], ids=["nothing", "text", "a piece", "a half"]
)
def test_what_is_no_bundle_is_no_chain(pem: str) -> None:
    assert not is_valid(pem, ROOT)
    assert not is_valid(LEAF + MIDDLE, pem)


def test_more_certificates_than_anybody_needs_are_no_chain() -> None:
    assert is_valid(LEAF + MIDDLE * 63, ROOT)
    assert not is_valid(LEAF + MIDDLE * 64, ROOT)
    assert not is_valid(LEAF + MIDDLE, ROOT * 65)
    assert refused("isValidX509CertChain", LEAF) == "TypeError: Passed 1 arguments, but expected 2"
    assert refused("isValidX509CertChain", LEAF, None) == "TypeError: trusted must be a string"
