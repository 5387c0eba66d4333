"""What a service does without a member's request, replayed; and rewritten by a service that has all of its keys."""

import base64

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.auditing import findings
from ledgerd.enclave.auditing.findings import NotFollowingError
from ledgerd.enclave.keys import spki
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from support.auditing import audited, refusal
from support.cluster import Cluster, make_identity
from support.governed import id_of
from support.lives import Ledger, Life
from support.members import node_id, retire
from support.rewriting import Keys, rewrite


def refused(ledger: Ledger, seqno: int, **changes: dict[bytes, bytes | None]) -> NotFollowingError:
    """Why a ledger is refused after entry `seqno` was changed: tables by their names in `governance.tables`."""

    def change(at: int, writes: WriteSet) -> WriteSet:
        if at == seqno:
            for name, rows in changes.items():
                writes.setdefault(getattr(tables, name), {}).update(rows)
        return writes

    error: NotFollowingError = ledger.refused(change)
    assert error.transaction_id.seqno == seqno
    return error


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """Three nodes, admitted by themselves; one of them is retired, and its record deleted."""
    cluster = Cluster(app)
    n0, _, n2 = cluster.start(3)
    cluster.run(0.5)
    assert retire(cluster, n0, n2).status == 200
    cluster.until(lambda: "retired" in n2.notices)
    cluster.run(0.5)
    assert cluster.client(n0).ask("DELETE", f"/node/network/nodes/{node_id(n2)}").status == 200
    assert cluster.client(n0).ask("PUT", "/app/public/records/a", b"v").status == 204
    cluster.run(1.5)
    return Ledger(n0.entries, n0.notices["service_certificate"], Keys.of(cluster))


def test_a_ledger_that_is_written_again_is_the_same_as_far_as_nothing_is_changed(ledger: Ledger) -> None:
    assert rewrite(ledger.entries, ledger.keys, lambda _, writes: writes) == ledger.entries


def test_what_a_service_does_by_itself_follows(ledger: Ledger) -> None:
    steps = audited(ledger.entries, ledger.certificate)
    assert [step.kind for step in steps] == ["genesis", "join", "join", "trust", "trust", "proposal", "retired", "deleted"]
    assert steps[0].text.startswith("the service begins: members (Active) ")
    assert "; users 1; admission automatic; constitution " in steps[0].text
    assert steps[4].text.endswith("is trusted, as the genesis says of every attested node, and the service opens, as the genesis says")


@pytest.mark.parametrize("name", ["USER_CERTS", "CONSTITUTION", "MEMBER_CERTS", "NITRO_MEASUREMENTS", "SERVICE_CONFIG", "JWT_KEYS"])
def test_what_nobody_proposed_has_no_origin(ledger: Ledger, name: str) -> None:
    row: WriteSet = {getattr(tables, name): {bytes(8): b"x"}}
    error = ledger.refused(added={ledger.first(tables.COSE_HISTORY) - 1: [row]})
    assert error.rule == findings.ORIGIN
    assert getattr(tables, name) in error.found
    assert "no member proposed it" in error.meaning


def test_an_application_s_entry_writes_no_table_of_the_service_s(ledger: Ledger) -> None:
    seqno = ledger.first("public:records")
    assert refused(ledger, seqno, USER_INFO={b"x": b"{}"}).rule == findings.ORIGIN


def test_a_user_is_not_added_beside_a_member_s_request(ledger: Ledger) -> None:
    user = make_identity("user")
    error = refused(ledger, ledger.first(tables.COSE_HISTORY), USER_CERTS={id_of(user).encode(): user.pem.encode()})
    assert error.rule == findings.OUTCOME
    assert "users.certs" in error.expected
    assert "nothing written" in error.expected


def test_a_node_joins_under_its_own_name_and_waits(ledger: Ledger) -> None:
    seqno, second = ledger.all(tables.NODE_INFO)[:2]
    key, record = ledger.row(seqno, tables.NODE_INFO)
    _, other = ledger.row(second, tables.NODE_INFO)
    assert refused(ledger, seqno, NODE_INFO={key: tables.encode({**record, "public_key": other["public_key"]})}).rule == findings.NODE
    assert refused(ledger, seqno, NODE_INFO={key: tables.encode({**record, "status": "Trusted"})}).rule == findings.ORIGIN


def test_a_trusted_node_is_the_one_that_asked(ledger: Ledger) -> None:
    seqno, second = ledger.all(tables.NODE_INFO, tables.NODE_ENDORSED_CERTIFICATES)[:2]
    key, record = ledger.row(seqno, tables.NODE_INFO)
    other = ledger.writes(second)[tables.NODE_ENDORSED_CERTIFICATES]
    (pem,) = other.values()
    error = refused(ledger, seqno, NODE_ENDORSED_CERTIFICATES={key: pem})
    assert (error.rule, error.found) == (findings.CERTIFICATE, "none over that key")
    stranger = make_identity("stranger").pem.encode()
    assert refused(ledger, seqno, NODE_ENDORSED_CERTIFICATES={key: stranger}).rule == findings.CERTIFICATE
    assert refused(ledger, seqno, NODE_INFO={key: tables.encode({**record, "node_data": "x"})}).rule == findings.ORIGIN


def test_a_service_opens_when_its_genesis_says(ledger: Ledger) -> None:
    seqno = ledger.first(tables.NODE_INFO, tables.NODE_ENDORSED_CERTIFICATES)
    _, service = ledger.row(1, tables.SERVICE_INFO)
    opening = tables.encode({**service, "status": tables.OPEN})
    assert refused(ledger, seqno, SERVICE_INFO={tables.SINGLETON: opening}).rule == findings.ORIGIN, "the second of three nodes"


def test_a_retirement_ends_after_members_decided_it_and_it_is_signed(ledger: Ledger) -> None:
    final = ledger.first(tables.FORMER_NODES)
    writes = ledger.writes(final)

    def earlier(before: int) -> NotFollowingError:
        left_out = rewrite(ledger.entries, ledger.keys, lambda seqno, same: None if seqno == final else same, {before: [writes]})
        return refusal(left_out, ledger.certificate)

    decided = ledger.first(tables.COSE_HISTORY)
    assert earlier(decided).rule == findings.ORIGIN, "no signature covers the decision yet"
    assert earlier(decided - 1).rule == findings.ORIGIN, "nobody has decided it"


def test_a_genesis_is_whole(ledger: Ledger) -> None:
    key, member = ledger.row(1, tables.MEMBER_INFO)
    assert refused(ledger, 1, MEMBER_INFO={key: tables.encode({**member, "status": tables.ACCEPTED})}).rule == findings.GENESIS
    assert refused(ledger, 1, USER_CERTS={b"ab": b"no certificate"}).rule == findings.GENESIS
    assert refused(ledger, 1, USER_INFO={b"ab" * 32: b"{}"}).rule == findings.GENESIS, "of nobody"
    stranger = make_identity("stranger")
    assert refused(ledger, 1, MEMBER_CERTS={id_of(stranger).encode(): stranger.pem.encode()}).rule == findings.GENESIS, (
        "neither Accepted nor Active"
    )
    assert refused(ledger, 1, PROPOSALS={b"ab": b"{}"}).rule == findings.GENESIS


def test_a_signer_is_a_member_and_has_signed(ledger: Ledger) -> None:
    seqno = ledger.first(tables.COSE_HISTORY)
    ((key, value),) = ledger.writes(seqno)[tables.COSE_HISTORY].items()
    assert value is not None
    for changed in (b'"AAAA"', b"{", value[:-9] + b'AAAAAAA="'):
        assert refused(ledger, seqno, COSE_HISTORY={key: changed}).rule == findings.FORM
    assert refused(ledger, seqno, COSE_HISTORY={b"ab": value}).rule == findings.FORM, "two of them"


def test_keys_of_a_token_issuer_are_fetched_where_members_decided_so() -> None:
    life = Life()
    life.begin()
    roots = {"name": "roots", "cert_bundle": make_identity("root").pem}
    fetched = {"issuer": "https://fetched.example", "auto_refresh": True, "ca_cert_bundle_name": "roots"}
    life.decide(
        "issuer", ("set_ca_cert_bundle", roots), ("set_jwt_issuer", fetched), ("set_jwt_issuer", {"issuer": "https://given.example"})
    )
    ledger = life.ledger()
    end = len(ledger.entries)

    def keys_of(*issuers: str) -> WriteSet:
        public_key = base64.b64encode(spki(make_identity("issuer").key.public_key())).decode()
        return {tables.JWT_KEYS: {b"kid": tables.encode([{"issuer": issuer, "public_key": public_key} for issuer in issuers])}}

    def then(*more: WriteSet) -> list[bytes]:
        return ledger.rewritten(added={end - 1: more})

    steps = audited(then(keys_of("https://fetched.example"), keys_of("https://fetched.example")), ledger.certificate)
    assert [step.text for step in steps[-2:]] == [
        "keys of token issuer https://fetched.example were fetched: there are 1, and 1 rows changed",
    ] * 2
    for issuers in (("https://given.example",), ("https://other.example",), ("https://fetched.example", "https://given.example")):
        assert refusal(then(keys_of(*issuers)), ledger.certificate).rule == findings.ORIGIN
