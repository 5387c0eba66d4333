"""What a ledger's own record of its nodes proves to whoever reads it years later, and what each change of it is refused by."""

import base64
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.apps.logging import app
from ledgerd.governance import attested_nodes, tables
from ledgerd.governance.attested_nodes import REFUSED, UNCHECKED, VERIFIED, NodeAudit, NodeFinding
from ledgerd.ledger import chunks, cose
from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1
from ledgerd.ledger.entry import PublicEntry, read_public
from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.ids import Seqno
from ledgerd.ledger.signature import COSE_SIGNATURES
from support.cluster import PCRS, Cluster
from support.vectors import vectors

OURS = Measurement(*(PCRS[index] for index in range(3)))
OTHER = Measurement(b"\xab" * 48, b"\xcd" * 48, b"\xef" * 48)
Change = Callable[[dict[str, Any]], object]


@cache
def entries() -> tuple[PublicEntry, ...]:
    """A ledger of two nodes, the second of which joined."""
    cluster = Cluster(app)
    first, _ = cluster.start(2)
    cluster.until(lambda: first.committed >= len(first.entries) > 4)
    return tuple(read_public(entry) for entry in first.entries)


def audit(ledger: list[PublicEntry] | tuple[PublicEntry, ...], **arguments: Any) -> list[NodeFinding]:
    auditor = NodeAudit(**arguments)
    for entry in ledger:
        auditor.feed(entry)
    return auditor.findings()


def replaced(name: str, change: Callable[[bytes, bytes], bytes | None]) -> list[PublicEntry]:
    """The ledger with every value of a map changed."""
    made = []
    for entry in entries():
        writes = {table: dict(keys) for table, keys in entry.writes.items()}
        for key, value in writes.get(name, {}).items():
            if value is not None:
                writes[name][key] = change(key, value)
        made.append(entry._replace(writes=writes))
    return made


def records(change: Change) -> list[PublicEntry]:
    def edit(_: bytes, value: bytes) -> bytes:
        record = json.loads(value)
        change(record)
        return tables.encode(record)

    return replaced(tables.NODE_INFO, edit)


def without(*names: str) -> list[PublicEntry]:
    return [entry._replace(writes={table: keys for table, keys in entry.writes.items() if table not in names}) for entry in entries()]


def test_both_nodes_of_a_service_are_verified_from_its_ledger_alone() -> None:
    first, second = audit(entries())
    assert (first.verdict, second.verdict) == (VERIFIED, VERIFIED), (first, second)
    assert (first.checked, second.checked) == (
        ("chain", "image", "key", "configuration"),
        ("chain", "image", "key", "configuration", "encryption_key"),
    )
    assert first.seqno == 1 < second.seqno
    assert {first.code_digest, second.code_digest} == {PCRS[0].hex()}
    assert first.simulated and second.simulated
    assert first.reason == second.reason == ""
    assert first.at_ms is not None and first.machine is not None and "-enc" in first.machine


def test_a_change_of_status_is_not_judged_again() -> None:
    assert sum(len(entry.writes.get(tables.NODE_INFO, {})) for entry in entries()) == 3, "started, Pending, Trusted"
    assert len(audit(entries())) == 2


def test_another_key_beside_evidence_that_was_verified_before_is_judged() -> None:
    """As when a record is changed after its node was trusted."""
    trusted = [entry for entry in entries() if tables.NODE_INFO in entry.writes][-1]
    ((node_id, value),) = trusted.writes[tables.NODE_INFO].items()
    started = json.loads(next(iter(entries()[0].writes[tables.NODE_INFO].values())) or b"")
    changed = tables.encode({**json.loads(value or b""), "encryption_pub_key": started["encryption_pub_key"]})
    seqno = Seqno(entries()[-1].seqno + 1)
    signature = next(entry for entry in entries() if COSE_SIGNATURES in entry.writes and entry.seqno > trusted.seqno)
    later = trusted._replace(seqno=seqno, writes={tables.NODE_INFO: {node_id: changed}})
    found = audit([*entries(), later, signature._replace(seqno=Seqno(seqno + 1))])
    assert [finding.verdict for finding in found] == [VERIFIED, VERIFIED, REFUSED]
    assert (found[2].seqno, "by rule 'user_data'" in found[2].reason) == (seqno, True)


def test_an_auditor_may_be_stricter_than_the_ledger() -> None:
    assert {finding.verdict for finding in audit(entries(), measurements=frozenset({OURS}))} == {VERIFIED}
    for arguments, rule in (({"roots": (AWS_ROOT_G1,)}, "root"), ({"measurements": frozenset({OTHER})}, "measurement")):
        for finding in audit(entries(), **arguments):
            assert finding.verdict == REFUSED
            assert f"by rule '{rule}'" in finding.reason


def flip(record: dict[str, Any]) -> None:
    quote = bytearray(base64.b64decode(record["quote_info"]["quote"]))
    quote[-1] ^= 1
    record["quote_info"]["quote"] = base64.b64encode(quote).decode()


def another_key(record: dict[str, Any]) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    record["public_key"] = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip, "by rule 'signature'"),
        (another_key, "by rule 'public_key'"),
        (lambda record: record.update(code_digest="00" * 48), "another code digest"),
        (lambda record: record["quote_info"].update(quote="*"), "cannot be read"),
        (lambda record: record["quote_info"].pop("quote"), "cannot be read"),
        (lambda record: record.pop("public_key"), "cannot be read"),
        (lambda record: record.update(public_key="not PEM"), "cannot be read"),
    ],
)
def test_a_record_that_its_evidence_does_not_bear_is_refused(change: Change, reason: str) -> None:
    for finding in audit(records(change)):
        assert finding.verdict == REFUSED
        assert reason in finding.reason


def test_another_configuration_than_was_recorded_is_refused_for_every_node() -> None:
    def edit(_: bytes, value: bytes) -> bytes:
        return tables.encode({**json.loads(value), "heartbeat_ms": 1})

    first, second = audit(replaced(tables.CONFIGURATION, edit))
    assert "by rule 'configuration'" in first.reason
    assert "by rule 'user_data'" in second.reason


def test_another_encryption_key_than_was_attested_is_refused_of_who_joined() -> None:
    keys = [json.loads(next(iter(entry.writes[tables.NODE_INFO].values())) or b"")["encryption_pub_key"] for entry in entries()[:1]]
    first, second = audit(records(lambda record: record.update(encryption_pub_key=keys[0])))
    assert (first.verdict, second.verdict) == (VERIFIED, REFUSED)
    assert "by rule 'user_data'" in second.reason


def test_a_ledger_that_records_no_configuration_is_judged_without() -> None:
    for finding in audit(without(tables.CONFIGURATION)):
        assert (finding.verdict, finding.checked) == (VERIFIED, ("chain", "image", "key"))


def test_after_a_recovery_the_present_identity_counts() -> None:
    """The configuration that nodes attest names the service's key; a recovered service has another."""

    def edit(_: bytes, value: bytes) -> bytes:
        return tables.encode({**json.loads(value), "service": "00" * 32})

    assert {finding.verdict for finding in audit(replaced(tables.CONFIGURATION, edit))} == {VERIFIED}


def test_the_join_policy_is_the_one_of_the_time() -> None:
    allowed = tables.measurement_key(*OURS[:3])
    later = entries()[-1]
    removal = later._replace(seqno=Seqno(later.seqno + 1), writes={tables.NITRO_MEASUREMENTS: {allowed: None}})
    assert {finding.verdict for finding in audit([*entries(), removal])} == {VERIFIED}
    early = entries()[0]._replace(
        writes={**entries()[0].writes, tables.NITRO_MEASUREMENTS: {tables.measurement_key(*OTHER[:3]): tables.ALLOWED_TO_JOIN}}
    )
    assert {finding.verdict for finding in audit([early, *entries()[1:]])} == {REFUSED}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record.pop("quote_info"), "records no evidence"),
        (lambda record: record.update(quote_info="x"), "records no evidence"),
        (lambda record: record["quote_info"].update(format="OE_SGX_v1"), "nobody here judges"),
    ],
)
def test_what_cannot_be_judged_is_said_to_be_unchecked(change: Change, reason: str) -> None:
    for finding in audit(records(change)):
        assert (finding.verdict, finding.checked) == (UNCHECKED, ())
        assert reason in finding.reason


def test_without_a_signature_that_says_the_time_nothing_is_judged() -> None:
    assert "no signature after it says what time" in audit(replaced(COSE_SIGNATURES, lambda key, value: b'"AAAA"'))[0].reason
    unsigned = audit(entries()[:1])
    assert (unsigned[0].verdict, unsigned[0].reason) == (UNCHECKED, attested_nodes.UNSIGNED)


def signed_at(seconds: int) -> Callable[[bytes, bytes], bytes]:
    key = ec.generate_private_key(ec.SECP384R1())

    def sign(_: bytes, value: bytes) -> bytes:
        header = cose.read_root_header(cose.decode(base64.b64decode(json.loads(value))))
        made = cose.sign_root(key, bytes(32), *header.transaction_id, header.issuer, header.subject, header.issued_at + seconds)
        return tables.encode(base64.b64encode(made).decode())

    return sign


@pytest.mark.parametrize(("seconds", "rule"), [(-30, None), (600, None), (4 * 3_600, "validity"), (-3_600, "validity")])
def test_the_time_is_the_one_of_the_signature_with_some_drift(seconds: int, rule: str | None) -> None:
    for finding in audit(replaced(COSE_SIGNATURES, signed_at(seconds))):
        assert finding.verdict == (VERIFIED if rule is None else REFUSED)
        assert rule is None or f"by rule '{rule}'" in finding.reason


def test_a_node_that_was_removed_is_no_reason_to_fail() -> None:
    last = entries()[-1]
    node_id = next(key for entry in entries() for key in entry.writes.get(tables.NODE_INFO, {}))
    removal = last._replace(seqno=Seqno(last.seqno + 1), writes={tables.NODE_INFO: {node_id: None}})
    assert len(audit([*entries(), removal])) == 2


def test_whatever_stands_in_the_maps_nothing_is_raised() -> None:
    for name in attested_nodes._WATCHED:
        for value in (b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"quote_info":{"format":"AWS_Nitro_v1","quote":1}}'):
            audit(replaced(name, lambda _, __, value=value: value))  # type: ignore[misc]
            odd = entries()[0]._replace(writes={**entries()[0].writes, name: {b"\xff": value}})
            audit([odd, *entries()[1:]])


@pytest.mark.parametrize("ledger", ["cose_flipflop_service", "double_sealed_service"])
def test_ccfs_ledgers_are_not_refused_for_evidence_that_we_cannot_judge(ledger: str) -> None:
    folder = vectors("ccf-ledgers", ledger) / "ledger"
    findings = []
    auditor = NodeAudit()
    for name, parsed in chunks.arrange(sorted(path.name for path in folder.iterdir())):
        for entry in chunks.parse((folder / name).read_bytes(), parsed):
            auditor.feed(read_public(entry))
    findings = auditor.findings()
    assert findings
    assert {finding.verdict for finding in findings} == {UNCHECKED}


def test_rules_that_change_with_every_record_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair of entries takes a few hundred bytes of a ledger; all tables as they were would take gigabytes."""
    monkeypatch.setattr(attested_nodes, "COPIED_ROWS_MAX", 1_000)
    first = entries()[0]
    auditor = NodeAudit()
    with pytest.raises(FormatError, match="no service does that"):
        for number in range(100):
            auditor.feed(first._replace(writes={tables.NITRO_MEASUREMENTS: {b"%d" % number: b"x"}}))
            auditor.feed(first._replace(writes={tables.NODE_INFO: {b"%d" % number: b'{"public_key": "x"}'}}))


def test_rules_that_change_while_no_record_waits_cost_what_they_change() -> None:
    auditor = NodeAudit()
    first = entries()[0]
    auditor.feed(first._replace(writes={tables.NITRO_MEASUREMENTS: {b"%d" % number: b"x" for number in range(100)}}))
    table = auditor._tables[tables.NITRO_MEASUREMENTS]
    auditor.feed(first._replace(writes={tables.NITRO_MEASUREMENTS: {b"1": None, b"new": b"x"}}))
    assert auditor._tables[tables.NITRO_MEASUREMENTS] is table
    assert len(table) == 100
