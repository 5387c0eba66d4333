"""From nothing to a public name that is served, over restarts; and what goes wrong with it never stops the node."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from ledgerd.enclave.kms.calls import parse_key_arn
from ledgerd.enclave.kms.public_name import REQUEST_NOTICE, SEALED_NOTICE, PublicName, PublicNameConfiguration
from ledgerd.ledger.errors import LedgerdError
from support.kms import BEGIN_S, NAME, PCRS, Rig, certify

SERVICE = b"the service's public key"


class Node:
    """What a node would do with what it is told."""

    def __init__(self, rig: Rig, arn: str, *, blob: bytes | None = None, chain: str = "", service: bytes = SERVICE) -> None:
        self.served: list[tuple[str, tuple[x509.Certificate, ...], EllipticCurvePrivateKey]] = []
        self.notices: dict[str, str] = {}
        self.logs: list[tuple[str, str]] = []
        self.refused: list[LedgerdError] = []
        configuration = PublicNameConfiguration(NAME, parse_key_arn(arn), blob, chain)
        PublicName(configuration, rig.client.ask, service, lambda: int(BEGIN_S * 1000), self)
        for _ in range(200):
            if self.logs:
                return
            rig.step()
        raise AssertionError("it never says anything")

    def serve_name(self, name: str, chain: tuple[x509.Certificate, ...], key: EllipticCurvePrivateKey) -> None:
        self.served.append((name, chain, key))

    def notice(self, name: str, text: str) -> None:
        self.notices[name] = text

    def log(self, level: str, text: str) -> None:
        self.logs.append((level, text))

    def sealed_refused(self, error: LedgerdError) -> None:
        self.refused.append(error)

    @property
    def blob(self) -> bytes:
        return base64.b64decode(self.notices[SEALED_NOTICE])

    @property
    def requested(self) -> EllipticCurvePublicKey:
        key = x509.load_pem_x509_csr(self.notices[REQUEST_NOTICE].encode()).public_key()
        assert isinstance(key, EllipticCurvePublicKey)
        return key


def test_three_starts_from_nothing_to_a_served_name() -> None:
    rig = Rig()
    arn = rig.key()
    first = Node(rig, arn)
    assert first.served == []
    second = Node(Rig(kms=rig.kms), arn, blob=first.blob)
    assert second.requested == first.requested, "the key survived"
    assert SEALED_NOTICE not in second.notices
    third = Node(Rig(kms=rig.kms), arn, blob=first.blob, chain=certify(first.requested))
    ((name, chain, key),) = third.served
    assert (name, len(chain)) == (NAME, 2)
    assert key.public_key() == first.requested
    assert third.notices == {}


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("image", "AccessDeniedException"),
        ("debug", "AccessDeniedException"),
        ("service", "is for service"),
        ("chain", "of another key"),
        ("blob", "no sealed secret"),
        ("offline", "failed 6 times"),
    ],
)
def test_what_goes_wrong_is_a_warning(which: str, said: str) -> None:
    rig = Rig()
    arn = rig.key()
    first = Node(rig, arn)
    chain = certify(Node(rig, arn).requested if which == "chain" else first.requested)
    again = Rig(kms=rig.kms, pcrs={**PCRS, 1: b"\x01" * 48} if which == "image" else PCRS, debug=which == "debug")
    again.unreachable = 100 if which == "offline" else 0
    blob = b"\xa1\x61x\x01" if which == "blob" else first.blob
    node = Node(again, arn, blob=blob, chain=chain, service=b"another" if which == "service" else SERVICE)
    ((level, text),) = node.logs
    assert level == "warning"
    assert said in text and NAME in text
    assert node.served == [] and node.notices == {}
    assert len(node.refused) == (which in ("service", "blob")), "what the host gave is counted, and nobody else's refusal"


def test_tls_that_does_not_take_the_chain_is_a_warning_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    arn = rig.key()
    first = Node(rig, arn)

    def serve_name(*_: object) -> None:
        raise RuntimeError("not this one")

    monkeypatch.setattr(Node, "serve_name", serve_name)
    node = Node(Rig(kms=rig.kms), arn, blob=first.blob, chain=certify(first.requested))
    ((level, text),) = node.logs
    assert level == "warning"
    assert "TLS does not take it (RuntimeError)" in text


def test_a_key_that_cannot_be_sealed_is_not_certified() -> None:
    rig = Rig()
    arn = rig.key()
    node = Node(Rig(kms=rig.kms, debug=True), arn)
    assert node.notices == {}
    assert node.logs[0][0] == "warning" and "AccessDenied" in node.logs[0][1]
