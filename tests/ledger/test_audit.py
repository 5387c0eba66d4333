"""The auditor: what it accepts, and that it refuses every other ledger, by name of the entry."""

import base64
import dataclasses
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ledgerd.ledger import chunks, cose, signature
from ledgerd.ledger.audit import ENDORSEMENT, PREVIOUS_IDENTITY, PREVIOUS_ROOT, Auditor
from ledgerd.ledger.entry import WriteSet, read_public
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.ids import Seqno, TransactionId, View
from ledgerd.ledger.merkle import serialise_tree
from ledgerd.ledger.receipt import key_der
from support.entry_fields import Field, fields_of_chunk, fields_of_entry
from support.ledgers import CURVES, ISSUED_AT, NODES_CERTIFICATES, NODES_INFO, SERVICE_INFO, SINGLETON, Node, Service, certify, confuse
from support.vectors import vectors

REFUSED = (IntegrityError, FormatError)


def audit(entries: Iterable[bytes], certificate: str | bytes | None) -> Auditor:
    auditor = Auditor(certificate)
    for entry in entries:
        auditor.feed(entry)
    return auditor


@dataclasses.dataclass
class CcfLedger:
    """A ledger that CCF wrote, with an auditor standing before each of its entries."""

    certificate: bytes
    names: list[chunks.ChunkName]
    files: list[bytes]
    before: list[Auditor]
    after: Auditor


def read_ccf(name: str) -> CcfLedger:
    folder = vectors("ccf-ledgers", name)
    certificate = (folder / "service_cert.pem").read_bytes()
    arranged = chunks.arrange(path.name for path in Path(folder / "ledger").iterdir())
    ledger = CcfLedger(certificate, [], [], [], Auditor(certificate))
    for file, parsed in arranged:
        data = (folder / "ledger" / file).read_bytes()
        ledger.names.append(parsed)
        ledger.files.append(data)
        for entry in chunks.parse(data, parsed):
            ledger.before.append(ledger.after.copy())
            ledger.after.feed(entry)
    return ledger


@pytest.mark.parametrize(
    ("name", "last", "signatures", "recoveries"),
    [
        ("cose_flipflop_service", TransactionId(View(2), Seqno(46)), 23, 0),
        ("double_sealed_service", TransactionId(View(5), Seqno(509)), 156, 1),
    ],
)
def test_ledgers_that_ccf_wrote_verify(name: str, last: TransactionId, signatures: int, recoveries: int) -> None:
    """The second one went through a recovery under a new service identity."""
    result = read_ccf(name).after.result()
    assert result.last_signed == result.last_transaction_id == last
    assert (result.transactions, result.signatures, result.unsigned) == (last.seqno, signatures, 0)
    assert result.recoveries == recoveries
    assert result.anchored
    assert result.service_status == "Open"


@pytest.mark.parametrize("name", ["cose_flipflop_service", "double_sealed_service"])
def test_every_kind_of_field_of_a_ccf_ledger_is_covered(name: str) -> None:
    """Any flipped bit before the last signature is refused: 1,000 flips in each ledger, spread over every kind of field."""
    ledger = read_ccf(name)
    last = ledger.after.result().last_transaction_id.seqno
    places: dict[str, list[tuple[int, int, Field]]] = defaultdict(list)
    for number, data in enumerate(ledger.files):
        assert sum(field.end - field.start for _, field in fields_of_chunk(data)) == len(data)
        for seqno, field in fields_of_chunk(data):
            if seqno < last and field.end > field.start:
                places[field.kind].append((number, seqno, field))
    assert len(places) >= 22
    choose = random.Random(20261124)
    flips = 0
    rounds = -(-1000 // len(places))
    for kind in sorted(places):
        for _ in range(rounds):
            number, seqno, field = choose.choice(places[kind])
            bit = choose.randrange(field.start * 8, field.end * 8)
            flipped = bytearray(ledger.files[number])
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(REFUSED):
                refuse(ledger, number, bytes(flipped), seqno)
            flips += 1
    assert flips >= 1000


def refuse(ledger: CcfLedger, number: int, data: bytes, seqno: int) -> None:
    """Audit a changed chunk from entry `seqno` on (0: from its first), and then the others, until something is refused."""
    first = seqno or ledger.names[number].first
    auditor = ledger.before[first - 1].copy()
    for file, name in zip([data, *ledger.files[number + 1 :]], ledger.names[number:], strict=True):
        for at, entry in enumerate(chunks.parse(file, name), name.first):
            if at >= first:
                auditor.feed(entry)
    auditor.result()


def test_chunks_that_ccf_wrote_are_rebuilt_byte_for_byte() -> None:
    for name in ("cose_flipflop_service", "double_sealed_service"):
        ledger = read_ccf(name)
        for parsed, data in zip(ledger.names, ledger.files, strict=True):
            assert chunks.build(list(chunks.parse(data, parsed)), closed=parsed.last is not None) == data


@pytest.fixture(scope="module", params=CURVES)
def service(request: pytest.FixtureRequest) -> Service:
    made = Service(curve=request.param)
    made.genesis()
    made.open()
    for number in range(6):
        made.write({"records": {b"key": b"%d" % number}, "public:records": {b"key": b"value", b"other": None}}, b"\x11" * 32)
    made.sign()
    made.write({"records": {b"key": b"more"}})
    made.sign()
    return made


@pytest.mark.parametrize("curve", CURVES)
def test_a_ledger_whose_service_signed_under_another_curves_algorithm_is_refused(curve: str) -> None:
    service = Service(curve=curve)
    service.genesis()
    service.write({"public:records": {b"key": b"value"}})
    root = service.frontier.root()
    signed = cose.sign_root(service.key, root, 2, service.seqno + 1, "service.example.com", "ledger.signature", ISSUED_AT)
    assert audit(service.entries, service.certificate).result().anchored
    service.sign(cose=cose.encode(confuse(cose.decode(signed), service.key, root)))
    with pytest.raises(IntegrityError, match=rf"but the key is on {curve}"):
        audit(service.entries, service.certificate)


@pytest.mark.parametrize("curve", CURVES)
def test_a_node_may_have_its_key_on_the_other_curve_as_far_as_an_auditor_is_concerned(curve: str) -> None:
    """CCF's nodes may; that ours do not is for admission to see. What each key signs is judged by that key's own curve."""
    service = Service(curve=curve)
    other = Service(curve=next(name for name in CURVES if name != curve))
    service.node.key = other.node.key
    service.node.id = other.node.id
    service.node.certificate = certify("Test Node", other.node.key.public_key(), "Test Service", service.key, authority=False)
    service.genesis()
    assert audit(service.entries, service.certificate).result().anchored


def test_our_own_ledger_verifies(service: Service) -> None:
    result = audit(service.entries, service.certificate).result()
    assert result.last_signed == result.last_transaction_id == TransactionId(View(2), Seqno(12))
    assert (result.transactions, result.signatures, result.unsigned, result.anchored) == (12, 3, 0, True)
    assert result.last_root == service.span(12).root()
    assert result.service_certificate == service.certificate


def test_any_flipped_byte_before_the_last_signature_is_refused(service: Service) -> None:
    """One random bit of every byte of short entries and of every seventh byte of long ones, but the last signature's."""
    choose = random.Random(1)
    before = []
    auditor = Auditor(service.certificate)
    for entry in service.entries:
        before.append(auditor.copy())
        auditor.feed(entry)
    for number, entry in enumerate(service.entries[:-1]):
        step = 1 if len(entry) < 500 else 7  # certificates and genesis are long
        for at in range(choose.randrange(step), len(entry), step):
            changed = bytearray(entry)
            changed[at] ^= 1 << choose.randrange(8)
            other = before[number].copy()
            with pytest.raises(REFUSED):
                for item in [bytes(changed), *service.entries[number + 1 :]]:
                    other.feed(item)


def test_the_refusal_names_the_entry_that_was_changed(service: Service) -> None:
    entries = service.entries.copy()
    changed = bytearray(entries[6])
    changed[-1] ^= 1  # ciphertext: only the tree can tell
    entries[6] = bytes(changed)
    with pytest.raises(IntegrityError, match=r"signature entry 2\.10: .* the first entry that was changed is 7"):
        audit(entries, service.certificate)


def test_an_auditor_that_refused_takes_nothing_more(service: Service) -> None:
    auditor = Auditor(service.certificate)
    with pytest.raises(FormatError, match=r"entry 1 \(after 0\.0\)"):
        auditor.feed(b"")
    with pytest.raises(UsageError):
        auditor.feed(service.entries[0])
    with pytest.raises(UsageError):
        auditor.result()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entries: entries[1:], "missing, repeated or out of place"),
        (lambda entries: entries[:3] + entries[4:], "missing, repeated or out of place"),
        (lambda entries: entries[:4] + entries[3:], "missing, repeated or out of place"),
        (lambda entries: [*entries[:3], entries[4], entries[3], *entries[5:]], "missing, repeated or out of place"),
    ],
)
def test_missing_repeated_and_swapped_entries_are_refused(
    service: Service, change: Callable[[list[bytes]], list[bytes]], reason: str
) -> None:
    with pytest.raises(IntegrityError, match=reason):
        audit(change(service.entries), service.certificate)


def test_entries_after_the_last_signature_are_counted_not_vouched_for(service: Service) -> None:
    result = audit(service.entries[:-1], service.certificate).result()
    assert (result.transactions, result.unsigned) == (11, 1)
    assert result.last_signed == TransactionId(View(2), Seqno(10))


def test_without_a_certificate_the_verdict_says_unanchored(service: Service) -> None:
    assert not audit(service.entries, None).result().anchored


def test_another_service_s_certificate_is_refused(service: Service) -> None:
    with pytest.raises(IntegrityError, match="not the given service's"):
        audit(service.entries, Service().certificate).result()
    with pytest.raises(IntegrityError, match="nothing is signed"):
        audit(service.entries[:1], service.certificate).result()


def test_the_identity_before_a_recovery_does_not_vouch_for_what_came_after() -> None:
    """The second CCF ledger ends under a new identity; the first identity's certificate is in its genesis entry."""
    ledger = read_ccf("double_sealed_service")
    genesis = read_public(next(chunks.parse(ledger.files[0], ledger.names[0])))
    info = genesis.writes[SERVICE_INFO][SINGLETON]
    assert info is not None
    auditor = Auditor(json.loads(info)["cert"])
    for name, data in zip(ledger.names, ledger.files, strict=True):
        for entry in chunks.parse(data, name):
            auditor.feed(entry)
        if name.last == 483:
            assert auditor.result().anchored
    with pytest.raises(IntegrityError, match="not the given service's"):
        auditor.result()


def forge(change: Callable[[Service], None]) -> Service:
    made = Service()
    made.genesis()
    change(made)
    return made


def refused_at_next_signature(made: Service) -> None:
    made.sign()
    audit(made.entries, made.certificate)


def test_a_node_that_the_ledger_does_not_know_cannot_sign() -> None:
    made = forge(lambda made: None)
    made.node = Node(made.key)
    with pytest.raises(IntegrityError, match="whose status is None"):
        refused_at_next_signature(made)


def test_a_pending_node_cannot_sign_and_a_retired_one_can() -> None:
    made = Service()
    made.genesis()
    other = Node(made.key)
    made.write(
        {NODES_INFO: {other.id.encode(): other.info("Pending")}, NODES_CERTIFICATES: {other.id.encode(): other.certificate.encode()}}
    )
    made.sign()
    made.node = other
    made.sign()
    with pytest.raises(IntegrityError, match="whose status is Pending"):
        audit(made.entries, made.certificate)
    made = Service()
    made.genesis()
    made.write({NODES_INFO: {made.node.id.encode(): made.node.info("Retired")}})
    made.sign()
    assert audit(made.entries, made.certificate).result().signatures == 2


def test_a_node_certificate_that_the_service_did_not_endorse_is_refused() -> None:
    """Without this a host could record a node of its own making after the last genuine signature, and sign with it."""
    made = Service()
    made.node.certificate = certify("Test Node", made.node.key.public_key(), "Test Service", Service().key, authority=False)
    made.genesis()
    with pytest.raises(IntegrityError, match="not endorsed"):
        audit(made.entries, made.certificate)


def test_a_node_without_a_recorded_certificate_cannot_sign() -> None:
    made = Service()
    made.write({SERVICE_INFO: {SINGLETON: made.info("Opening")}, NODES_INFO: {made.node.id.encode(): made.node.info()}})
    with pytest.raises(IntegrityError, match="no endorsed certificate"):
        refused_at_next_signature(made)


def recover(made: Service, **changes: bytes | None) -> None:
    """Begin a recovery under a new service key as CCF records it, or with some of the records changed."""
    successor = Service()
    previous = made.certificate
    last_root = made.span(made.signatures[-1]).root()
    made.view, made.key, made.certificate, made.node = made.view + 2, successor.key, successor.certificate, successor.node
    info = {"cert": made.certificate, "status": "Recovering", "current_service_create_txid": f"{made.view}.{made.seqno + 1}"}
    records: dict[str, bytes | None] = {
        SERVICE_INFO: json.dumps(info).encode(),
        PREVIOUS_IDENTITY: json.dumps(previous).encode(),
        PREVIOUS_ROOT: json.dumps(last_root.hex()).encode(),
        **changes,
    }
    node = made.node.id.encode()
    made.write(
        {
            **{name: {SINGLETON: value} for name, value in records.items() if value is not None},
            NODES_INFO: {node: made.node.info()},
            NODES_CERTIFICATES: {node: made.node.certificate.encode()},
        }
    )
    made.sign()


def opened() -> Service:
    made = Service()
    made.genesis()
    made.open()
    made.sign()
    return made


def test_a_recovery_under_a_new_identity_verifies_under_that_identity() -> None:
    made = opened()
    first = made.certificate
    recover(made)
    result = audit(made.entries, made.certificate).result()
    assert (result.recoveries, result.service_status, result.anchored) == (1, "Recovering", True)
    with pytest.raises(IntegrityError, match="not the given service's"):
        audit(made.entries, first).result()


def test_a_recovery_must_say_what_it_follows() -> None:
    for changes, reason in (
        ({PREVIOUS_ROOT: json.dumps("00" * 32).encode()}, "last signed root"),
        ({PREVIOUS_IDENTITY: json.dumps(Service().certificate).encode()}, "previous service identity"),
    ):
        made = opened()
        recover(made, **changes)
        with pytest.raises(IntegrityError, match=reason):
            audit(made.entries, None)


def test_a_recovery_follows_a_signature() -> None:
    """What stood after the last signature cannot be carried over: nobody ever committed it."""
    made = opened()
    made.write({"records": {b"key": b"never signed"}})
    recover(made)
    with pytest.raises(IntegrityError, match="does not follow a signature"):
        audit(made.entries, None)


@pytest.mark.parametrize(
    ("status", "created", "reason"),
    [("Open", "2.3", "without a recovery"), ("Opening", "2.1", "created at"), ("Recovering", "2.3", "from Opening to Recovering")],
)
def test_the_service_key_may_not_change_without_a_recovery(status: str, created: str, reason: str) -> None:
    made = forge(lambda made: None)
    info = {"cert": Service().certificate, "status": status, "current_service_create_txid": created}
    made.write({SERVICE_INFO: {SINGLETON: json.dumps(info).encode()}})
    with pytest.raises(IntegrityError, match=reason):
        audit(made.entries, None)


def endorse(made: Service, payload: bytes, *, epoch: dict[str, object], record: dict[str, object]) -> None:
    """Write the present service's endorsement of a key."""
    endorsement = cose.sign(made.key, {15: {6: 1_790_000_000}, "ccf.v1": epoch}, payload)
    value = {
        "endorsement": base64.b64encode(endorsement).decode(),
        "endorsing_key": base64.b64encode(key_der(made.key.public_key())).decode(),
        **record,
    }
    made.write({ENDORSEMENT: {SINGLETON: json.dumps(value).encode()}})


def test_endorsements_between_identities_are_checked() -> None:
    begin = {"epoch.start.txid": "2.1"}
    for key, epoch, record, reason in (
        (None, begin, {"endorsement_epoch_begin": "2.1"}, None),
        (None, begin, {"endorsement_epoch_begin": "2.2"}, "different epochs"),
        (Service().key, begin, {"endorsement_epoch_begin": "2.1"}, "no service identity of this ledger"),
        (None, begin, {"endorsement_epoch_begin": "2.1", "previous_version": 1}, "follows the one at 1"),
        (None, begin, {"endorsement_epoch_begin": "2.1", "endorsing_key": "AAAA"}, "endorsing key"),
        (
            None,
            {**begin, "epoch.end.txid": "2.2", "epoch.end.merkle.root": bytes(32)},
            {"endorsement_epoch_begin": "2.1", "endorsement_epoch_end": "2.2"},
            "not the one signed there",
        ),
        (
            None,
            {**begin, "epoch.end.txid": []},
            {"endorsement_epoch_begin": "2.1", "endorsement_epoch_end": []},
            "not the one signed there",
        ),
    ):
        made = forge(lambda made: None)
        endorse(made, key_der((key or made.key).public_key()), epoch=dict(epoch), record=dict(record))
        if reason is None:
            audit(made.entries, None)
        else:
            with pytest.raises(IntegrityError, match=reason):
                audit(made.entries, None)


@pytest.mark.parametrize("status", ["Recovering", "Closed"])
def test_impossible_steps_of_the_service_s_status_are_refused(status: str) -> None:
    """Recovering follows Open, and nothing else; see the auditor's table."""
    made = forge(lambda made: None)
    made.write({SERVICE_INFO: {SINGLETON: made.info(status)}})
    with pytest.raises(IntegrityError, match=f"from Opening to {status}"):
        audit(made.entries, None)


def test_views_never_fall() -> None:
    made = forge(lambda made: None)
    made.view = 3
    made.write({})
    other = Service()
    other.genesis()
    other.write({})
    low = other.write({})
    with pytest.raises(IntegrityError, match="never fall"):
        audit([*made.entries, other.entries[low - 1]], None)


def test_a_signature_s_name_must_be_its_entry_s() -> None:
    """An old signature entry's content cannot be replayed in a later entry."""
    made = forge(lambda made: None)
    old = read_public(made.entries[1]).writes
    made.write(old)
    with pytest.raises(IntegrityError, match=r"says that it is 2\.2, the entry is 2\.3"):
        audit(made.entries, None)


@pytest.mark.parametrize("name", [signature.SIGNATURES, signature.COSE_SIGNATURES])
def test_a_ledger_with_one_of_both_signatures_verifies(name: str) -> None:
    """CCF wrote raw signatures only before 6.0, and can write COSE only since 7.0."""
    made = forge(lambda made: None)
    seqno = made.sign()
    writes = read_public(made.entries.pop()).writes
    made.leaves.pop()
    del writes[name]
    sealed = type(made.sealer)(b"\x07" * 32).seal(2, seqno, writes)
    assert audit([*made.entries, sealed.data], made.certificate).result().signatures == 2


def test_a_signature_over_another_root_is_refused() -> None:
    made = forge(lambda made: None)
    made.frontier.append(bytes(32))
    with pytest.raises(IntegrityError, match="the entries read give root"):
        refused_at_next_signature(made)


def test_a_tree_that_is_not_the_ledger_s_is_refused() -> None:
    made = forge(lambda made: None)
    made.leaves[-1] = bytes(32)  # what goes into the serialised tree; the signed root stays right
    with pytest.raises(IntegrityError, match="is not the one of the entries"):
        refused_at_next_signature(made)
    made = forge(lambda made: None)
    made.sign(tree=serialise_tree(made.signed, []))
    with pytest.raises(IntegrityError, match="has 2 leaves, expected 3"):
        audit(made.entries, made.certificate)


def test_a_signature_entry_may_write_nothing_else() -> None:
    made = forge(lambda made: None)
    writes = dict(read_public(made.entries[1]).writes)
    writes["public:records"] = {b"key": b"value"}
    made.write(writes)
    with pytest.raises(FormatError, match="may write nothing else"):
        audit(made.entries, None)


def test_fields_of_an_entry_are_all_its_bytes(service: Service) -> None:
    """Guards the list of fields that the flips above are drawn from."""
    for entry in service.entries:
        at = 0
        for field in fields_of_entry(entry):
            assert field.start == at
            at = field.end
        assert at == len(entry)


def test_signatures_may_be_verified_in_threads(service: Service) -> None:
    with ThreadPoolExecutor(2) as pool:
        checks: list[Future[None]] = []
        auditor = Auditor(service.certificate, defer=lambda check: checks.append(pool.submit(check)))
        for entry in service.entries:
            auditor.feed(entry)
        for check in checks:
            check.result()
    assert len(checks) == 6
    assert auditor.result() == audit(service.entries, service.certificate).result()


def test_there_is_no_verdict_before_every_deferred_signature_is_verified(service: Service) -> None:
    checks: list[Callable[[], None]] = []
    auditor = Auditor(service.certificate, defer=checks.append)
    for entry in service.entries:
        auditor.feed(entry)
    for check in checks[:-1]:
        check()
    for ask in (auditor.result, auditor.copy):
        with pytest.raises(UsageError, match="1 signatures are not verified"):
            ask()
    checks[-1]()
    assert auditor.result().anchored


def test_a_deferred_signature_that_fails_says_which_and_leaves_no_verdict() -> None:
    made = forge(lambda made: None)
    made.key = Service().key  # the service's certificate stays: the COSE signature is by another key
    made.sign()
    checks: list[Callable[[], None]] = []
    auditor = Auditor(made.certificate, defer=checks.append)
    for entry in made.entries:
        auditor.feed(entry)
    for check in checks[:-1]:
        check()
    with pytest.raises(IntegrityError, match=r"signature entry 2\.3, COSE signature"):
        checks[-1]()
    with pytest.raises(UsageError):
        auditor.result()


def test_a_signature_before_there_is_a_service_is_refused() -> None:
    made = Service()
    made.sign()
    with pytest.raises(IntegrityError, match="before there is a service"):
        audit(made.entries, None)


def test_both_signatures_must_name_their_entry() -> None:
    """Each alone could be an old one over the same root."""
    made = forge(lambda made: None)
    cose_of_other = cose.sign_root(made.key, made.frontier.root(), 2, 4, "service.example.com", "ledger.signature", ISSUED_AT)
    made.sign(cose=cose_of_other)
    with pytest.raises(IntegrityError, match=r"the COSE signature says that it is 2\.4, the entry is 2\.3"):
        audit(made.entries, None)


def test_a_cose_signature_in_a_ledger_carries_nothing_unsigned() -> None:
    made = forge(lambda made: None)
    signed = cose.decode(cose.sign_root(made.key, made.frontier.root(), 2, 3, "issuer", "subject", ISSUED_AT))
    made.sign(cose=cose.encode(signed._replace(unprotected={396: {}})))
    with pytest.raises(FormatError, match="unprotected header"):
        audit(made.entries, None)


def test_the_certificate_beside_a_signature_is_the_signer_s() -> None:
    made = forge(lambda made: None)
    other = Node(made.key)
    made.sign(certificate=other.certificate, signature=signature.sign_raw(other.key, made.frontier.root()))
    with pytest.raises(IntegrityError, match="the certificate beside it is of"):
        audit(made.entries, None)


def test_the_certificate_beside_a_signature_has_the_recorded_key() -> None:
    made = forge(lambda made: None)
    made.write({NODES_CERTIFICATES: {made.node.id.encode(): Node(made.key).certificate.encode()}})
    with pytest.raises(IntegrityError, match="another key than that of its recorded certificate"):
        refused_at_next_signature(made)


def test_a_renewed_certificate_of_the_same_key_is_accepted() -> None:
    made = forge(lambda made: None)
    renewed = certify("Test Node", made.node.key.public_key(), "Test Service", made.key, authority=False)
    made.write({NODES_CERTIFICATES: {made.node.id.encode(): renewed.encode()}})
    made.sign()  # still beside it: the first one
    made.node.certificate = renewed
    made.sign()
    assert audit(made.entries, made.certificate).result().signatures == 3


def test_a_removed_node_cannot_sign() -> None:
    made = forge(lambda made: None)
    made.write({NODES_INFO: {made.node.id.encode(): None}, NODES_CERTIFICATES: {made.node.id.encode(): None}})
    with pytest.raises(IntegrityError, match="whose status is None"):
        refused_at_next_signature(made)


def test_a_changed_entry_is_named_in_a_ledger_of_cose_signatures_only() -> None:
    made = forge(lambda made: None)
    made.write({"records": {b"key": b"value"}})
    seqno = made.sign()
    writes = read_public(made.entries.pop()).writes
    del writes[signature.SIGNATURES]
    made.entries.append(type(made.sealer)(b"\x07" * 32).seal(2, seqno, writes).data)
    audit(made.entries, made.certificate)
    made.entries[2] = made.entries[2][:-1] + bytes([made.entries[2][-1] ^ 1])
    with pytest.raises(IntegrityError, match="the first entry that was changed is 3"):
        audit(made.entries, made.certificate)


@pytest.mark.parametrize(
    "writes",
    [
        {PREVIOUS_ROOT: {SINGLETON: b'"00"'}},
        {PREVIOUS_IDENTITY: {SINGLETON: b'"PEM"'}},
        {SERVICE_INFO: {SINGLETON: b"{}"}},
        {SERVICE_INFO: {SINGLETON: b"[]"}},
        {SERVICE_INFO: {SINGLETON: b"{"}},
        {SERVICE_INFO: {SINGLETON: None}},
        {SERVICE_INFO: {b"other": b"{}"}},
        {SERVICE_INFO: {SINGLETON: b'{"status": "Opening", "cert": "PEM"}'}},
        {SERVICE_INFO: {SINGLETON: b'{"status": "Opening", "status": "Open", "cert": ""}'}},
        {NODES_INFO: {b"node": b'{"status": "Trusted?"}'}},
        {NODES_INFO: {b"node": b"1"}},
        {NODES_INFO: {b"node": b'{"status": []}'}},
        {NODES_INFO: {b"node": b'{"status": {"Trusted": 1}}'}},
        {NODES_CERTIFICATES: {b"node": b"\xff"}},
        {ENDORSEMENT: {SINGLETON: b"{}"}},
    ],
)
def test_built_in_tables_of_another_form_are_refused(writes: WriteSet) -> None:
    made = forge(lambda made: None)
    audit(made.entries, None)
    made.write(writes)
    with pytest.raises(REFUSED):
        audit(made.entries, None)


def test_a_last_root_without_a_new_identity_is_refused() -> None:
    made = forge(lambda made: None)
    made.write({SERVICE_INFO: {SINGLETON: made.info("Opening")}, PREVIOUS_ROOT: {SINGLETON: b'"00"'}})
    with pytest.raises(IntegrityError, match="identity is the same"):
        audit(made.entries, None)


def test_an_endorsement_before_there_is_a_service_is_refused() -> None:
    made = Service()
    endorse(made, b"key", epoch={}, record={})
    with pytest.raises(IntegrityError, match="before there is a service"):
        audit(made.entries, None)
