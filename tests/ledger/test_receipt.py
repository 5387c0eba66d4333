"""Receipts: what verifies, and that any change of any part does not."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.ledger import cbor, cose
from ledgerd.ledger.entry import leaf_digest, read_public
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError
from ledgerd.ledger.ids import Seqno, TransactionId, View
from ledgerd.ledger.merkle import Frontier, parse_tree, path
from ledgerd.ledger.receipt import Leaf, build_cose, build_json, verify_cose, verify_json
from ledgerd.ledger.signature import Signature, parse
from support.ledgers import CURVES, NOT_AFTER, NOT_BEFORE, Node, Service, certify, confuse

CLAIMS = b"\xcc" * 32


@pytest.fixture(scope="module", params=CURVES)
def service(request: pytest.FixtureRequest) -> Service:
    made = Service(curve=request.param)
    made.genesis()
    for number in range(20):
        made.write({"records": {b"key": b"%d" % number}}, CLAIMS)
    made.sign()
    return made


def leaf_of(service: Service, seqno: int) -> Leaf:
    entry = read_public(service.entries[seqno - 1])
    assert entry.claims_digest is not None
    return Leaf(entry.write_set_digest, service.sealer.commit_evidence(service.view, seqno), entry.claims_digest)


def signature_of(service: Service) -> Signature:
    found = parse(read_public(service.entries[-1]).writes)
    assert found is not None
    return found


def json_receipt(service: Service, seqno: int) -> dict[str, Any]:
    raw = signature_of(service).raw
    assert raw is not None
    return build_json(raw, leaf_of(service, seqno), service.span(service.seqno).path(seqno))


def cose_receipt(service: Service, seqno: int) -> bytes:
    signed = signature_of(service).cose
    assert signed is not None
    return build_cose(signed, leaf_of(service, seqno), service.span(service.seqno).path(seqno))


@pytest.mark.parametrize("seqno", [1, 2, 3, 10, 21, 22])
def test_both_receipts_of_an_entry_verify(service: Service, seqno: int) -> None:
    expected = TransactionId(View(2), Seqno(seqno))
    first = verify_json(json.dumps(json_receipt(service, seqno)), service.certificate, expected=expected)
    second = verify_cose(cose_receipt(service, seqno), service.key.public_key(), expected=expected)
    assert first.transaction_id == second.transaction_id == expected
    assert first.root == second.root
    assert first.claims_digest == second.claims_digest == leaf_of(service, seqno).claims_digest
    assert first.signed_by == service.node.id
    assert second.signature_id == TransactionId(View(2), Seqno(service.seqno))


def test_a_cose_receipt_signed_under_another_curves_algorithm_is_refused(service: Service) -> None:
    signed = signature_of(service).cose
    assert signed is not None
    root = verify_cose(cose_receipt(service, 5), service.key.public_key()).root
    confused = cose.encode(confuse(cose.decode(signed), service.key, root))
    receipt = build_cose(confused, leaf_of(service, 5), service.span(service.seqno).path(5))
    with pytest.raises(IntegrityError, match=f"but the key is on {service.key.curve.name}"):
        verify_cose(receipt, service.key.public_key())


def test_receipts_of_a_service_on_the_other_curve_are_refused(service: Service) -> None:
    other = Service(curve=next(curve for curve in CURVES if curve != service.key.curve.name))
    with pytest.raises(IntegrityError, match="certificate of that service"):
        verify_cose(cose_receipt(service, 5), other.key.public_key())
    with pytest.raises(IntegrityError, match="is not endorsed by"):
        verify_json(json_receipt(service, 5), other.certificate)


def test_the_tree_in_a_signature_entry_is_enough_for_a_receipt(service: Service) -> None:
    """Sources: the signature entry alone and the entry itself; no other leaf."""
    signed = signature_of(service)
    assert signed.tree is not None
    assert signed.cose is not None
    tree = parse_tree(signed.tree)
    way = path(tree.below, tree.base, tree.leaves, 7, service.seqno)
    made = build_cose(signed.cose, leaf_of(service, 7), way)
    assert verify_cose(made, service.key.public_key()).transaction_id.seqno == 7


def changed(value: Any) -> Iterator[Any]:
    """Yield every value that differs from this one in one character of one string, or one side of one step."""
    if isinstance(value, str):
        for at in {0, len(value) // 2, len(value) - 2}:
            yield value[:at] + ("a" if value[at] != "a" else "b") + value[at + 1 :]
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, dict):
        for key, inner in value.items():
            for other in changed(inner):
                yield {**value, key: other}
        if set(value) in ({"left"}, {"right"}):
            side, digest = next(iter(value.items()))
            yield {"left" if side == "right" else "right": digest}
        for key in value:
            yield {name: inner for name, inner in value.items() if name != key}
        yield {**value, "extra": "x"}
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for other in changed(inner):
                yield [*value[:at], other, *value[at + 1 :]]
        yield value[1:]
        yield value[:-1]
        yield [*value, value[-1]]


def test_a_json_receipt_with_any_field_changed_is_refused(service: Service) -> None:
    genuine = json_receipt(service, 5)
    count = 0
    for other in changed(genuine):
        if other == genuine or other == {k: v for k, v in genuine.items() if k != "is_signature_transaction"}:
            continue  # it may be left out: older CCF did
        count += 1
        with pytest.raises((IntegrityError, FormatError)):
            verify_json(other, service.certificate, expected=TransactionId(View(2), Seqno(5)))
    assert count > 40


def test_a_cose_receipt_with_any_bit_flipped_is_refused(service: Service) -> None:
    genuine = cose_receipt(service, 5)
    key = service.key.public_key()
    verify_cose(genuine, key)
    for at in range(len(genuine)):
        for bit in (1, 0x80):
            other = bytearray(genuine)
            other[at] ^= bit
            with pytest.raises((IntegrityError, FormatError)):
                verify_cose(bytes(other), key)


def test_every_cut_of_a_cose_receipt_is_refused(service: Service) -> None:
    genuine = cose_receipt(service, 5)
    for end in range(len(genuine)):
        with pytest.raises(FormatError):
            verify_cose(genuine[:end], service.key.public_key())
    with pytest.raises(FormatError):
        verify_cose(genuine + b"\x00", service.key.public_key())


def test_the_path_of_another_position_is_refused(service: Service) -> None:
    """A digest is its own proof of nothing: sides tie a path to the seqno that the evidence names."""
    forged = copy.deepcopy(json_receipt(service, 5))
    forged["leaf_components"]["commit_evidence"] = service.sealer.commit_evidence(2, 6)
    with pytest.raises(IntegrityError, match="another entry"):
        verify_json(forged, service.certificate)


def test_a_receipt_of_another_service_is_refused(service: Service) -> None:
    other = Service()
    with pytest.raises(IntegrityError, match="not endorsed"):
        verify_json(json_receipt(service, 5), other.certificate)
    with pytest.raises(IntegrityError, match="certificate of that service"):
        verify_cose(cose_receipt(service, 5), other.key.public_key())


def test_a_node_certificate_is_no_authority(service: Service) -> None:
    """A node that the service endorsed cannot endorse a key of its own making."""
    forged = json_receipt(service, 5)
    stranger = Node(service.node.key, "Test Node")
    raw = signature_of(service).raw
    assert raw is not None
    forged |= {"cert": stranger.certificate, "node_id": stranger.id, "service_endorsements": [service.node.certificate]}
    with pytest.raises(IntegrityError, match="no authority"):
        verify_json(forged, service.certificate)


def test_a_chain_over_recoveries_verifies(service: Service) -> None:
    successor = Service()
    bridge = certify("Test Service", service.key.public_key(), "Test Service", successor.key, authority=True)
    raw = signature_of(service).raw
    assert raw is not None
    made = build_json(raw, leaf_of(service, 5), service.span(service.seqno).path(5), [bridge])
    assert verify_json(made, successor.certificate).transaction_id.seqno == 5
    with pytest.raises(IntegrityError):
        verify_json({**made, "service_endorsements": []}, successor.certificate)


def test_left_out_claims_must_be_given(service: Service) -> None:
    made = json_receipt(service, 5)
    del made["leaf_components"]["claims_digest"]
    with pytest.raises(FormatError, match="recompute it"):
        verify_json(made, service.certificate)
    assert verify_json(made, service.certificate, claims_digest=CLAIMS).claims_digest == CLAIMS
    with pytest.raises(IntegrityError):
        verify_json(made, service.certificate, claims_digest=bytes(32))


def test_other_claims_and_other_transactions_are_refused(service: Service) -> None:
    key = service.key.public_key()
    with pytest.raises(IntegrityError, match="claims"):
        verify_cose(cose_receipt(service, 5), key, bytes(32))
    with pytest.raises(IntegrityError, match=r"2\.5, expected 2\.6"):
        verify_cose(cose_receipt(service, 5), key, CLAIMS, expected=TransactionId(View(2), Seqno(6)))
    with pytest.raises(IntegrityError, match="claims"):
        verify_json(json_receipt(service, 5), service.certificate, claims_digest=bytes(32))
    with pytest.raises(IntegrityError, match=r"2\.5, expected 2\.6"):
        verify_json(json_receipt(service, 5), service.certificate, expected=TransactionId(View(2), Seqno(6)))


def test_a_receipt_of_a_signature_entry_says_that_it_proves_no_transaction(service: Service) -> None:
    """CCF writes such receipts for signature transactions: the leaf is the signed root."""
    raw = signature_of(service).raw
    assert raw is not None
    made = {"leaf": raw.root.hex(), "proof": [], "signature": "", "cert": raw.certificate, "node_id": raw.node_id}
    with pytest.raises(FormatError, match="signature entry"):
        verify_json(made, service.certificate)


def test_two_proofs_in_one_receipt_are_refused(service: Service) -> None:
    """One receipt is of one entry; with two, callers would have to ask which."""
    message = cose.decode(cose_receipt(service, 5))
    proof = message.unprotected[396][-1][0]
    doubled = cose.encode(message._replace(unprotected={396: {-1: [proof, proof]}}))
    with pytest.raises(FormatError, match="one inclusion proof"):
        verify_cose(doubled, service.key.public_key())


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        cbor2.dumps([]),
        cbor2.dumps({1: [b"", "", b""], 2: []}),
        cbor2.dumps({1: [bytes(32), 1, bytes(32)], 2: []}),
        cbor2.dumps({1: [bytes(32), "ce:2.5:" + "0" * 64], 2: []}),
        cbor2.dumps({1: {}, 2: []}),
        cbor2.dumps({1: [bytes(32), "ce:2.5:" + "0" * 64, bytes(32)], 2: [[1, bytes(32)]]}),
        cbor2.dumps({1: [bytes(32), "ce:2.5:" + "0" * 64, bytes(32)], 2: [[True, bytes(31)]]}),
        cbor2.dumps({1: [bytes(32), "ce:2.5:" + "0" * 63, bytes(32)], 2: []}),
        cbor2.dumps({1: [bytes(32), "ce:2.05:" + "0" * 64, bytes(32)], 2: []}),
        cbor2.dumps({1: [bytes(32), "ce:2.5:" + "0" * 64, bytes(32)], 2: [[True, bytes(32)]] * 64}),
        cbor2.dumps({1: [bytes(32), "ce:2.5:" + "0" * 64, bytes(32)], 2: [], 3: 0}),
    ],
)
def test_malformed_proofs_are_refused(service: Service, proof: bytes) -> None:
    message = cose.decode(cose_receipt(service, 5))
    made = cose.encode(message._replace(unprotected={396: {-1: [proof]}}))
    with pytest.raises(FormatError):
        verify_cose(made, service.key.public_key())


@pytest.mark.parametrize(
    ("kind", "leaf", "path"), [(-1.0, 1, 2), (-1, True, 2), (-1, 1.0, 2), (-1, 1, 2.0)], ids=["kind", "leaf true", "leaf 1.0", "path"]
)
def test_labels_that_only_some_readers_take_for_numbers_are_refused(service: Service, kind: Any, leaf: Any, path: Any) -> None:
    """Whoever reads it with another tool would be told something else."""
    message = cose.decode(cose_receipt(service, 5))
    proof = cbor2.loads(message.unprotected[396][-1][0])
    told = {396: {kind: [cbor2.dumps({leaf: proof[1], path: proof[2]})]}}
    made = cbor2.dumps(cbor2.CBORTag(18, [message.protected_bytes, told, message.payload, message.signature]))
    with pytest.raises(FormatError, match="inclusion proof"):
        verify_cose(made, service.key.public_key())


def test_refusals_are_typed() -> None:
    for text in ("", "[]", "{}", "null", '{"leaf_components": {}}', '{"proof": 1, "proof": 1}', "[" * 100_000):
        with pytest.raises(FormatError):
            verify_json(text, "")
    assert issubclass(FormatError, LedgerdError)
    assert cbor.decode(b"\x80") == []


def test_a_view_above_that_of_the_signature_is_refused() -> None:
    """The key could sign anything; the evidence cannot name a view that had not begun."""
    service = Service()
    leaf = Leaf(bytes(32), "ce:3.1:" + "0" * 64, bytes(32))
    tree = Frontier()
    tree.append(leaf_digest(*leaf))
    signed = cose.sign_root(service.key, tree.root(), 2, 2, "issuer", "subject", 0)
    with pytest.raises(IntegrityError, match="views only rise"):
        verify_cose(build_cose(signed, leaf, [(True, bytes(32))]), service.key.public_key())


def test_receipts_beyond_their_limits_are_refused(service: Service) -> None:
    with pytest.raises(FormatError, match="limit"):
        verify_cose(cose_receipt(service, 5) + bytes(1 << 16), service.key.public_key())
    with pytest.raises(FormatError, match="limit"):
        verify_json(json.dumps(json_receipt(service, 5)) + " " * (1 << 20), service.certificate)
    endorsed = json_receipt(service, 5) | {"service_endorsements": [service.certificate] * 64}
    with pytest.raises(IntegrityError, match="chain of 65"):
        verify_json(endorsed, service.certificate)
    long = json_receipt(service, 5)
    long["proof"] += [{"left": "00" * 32}] * 64
    with pytest.raises(FormatError, match="at most 63"):
        verify_json(long, service.certificate)


@pytest.mark.parametrize("value", ["PEM", [1], {"a": "b"}, None])
def test_malformed_endorsements_are_refused(service: Service, value: Any) -> None:
    with pytest.raises(FormatError):
        verify_json(json_receipt(service, 5) | {"service_endorsements": value}, service.certificate)


def make_certificate(key: Any, issuer_key: Any) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key).serial_number(1)
    builder = builder.not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(issuer_key, algorithm).public_bytes(Encoding.PEM).decode()


def test_keys_and_algorithms_that_no_service_has_are_refused(service: Service) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(FormatError, match="no key on P-256"):
        verify_json(json_receipt(service, 5) | {"cert": make_certificate(other.public_key(), service.key)}, service.certificate)
    with pytest.raises(IntegrityError, match="SHA-2"):
        verify_json(json_receipt(service, 5) | {"cert": make_certificate(service.node.key.public_key(), other)}, service.certificate)
