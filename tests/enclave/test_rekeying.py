"""The ledger's secret changes, by the members' word, while nodes come, go, lead and lose what they had: whole enclaves, virtual time.

At each end all that is up has the same secrets for the same ledger, every entry opens with the secret of its epoch and no other, and the
ledger verifies. Rules that these runs must find broken are broken at the end.
"""

import base64
import json
import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledgerd.apps.logging import app
from ledgerd.enclave.governing import renewal
from ledgerd.enclave.ledger_secrets import LedgerSecrets, boxed
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from ledgerd.ledger import receipt
from ledgerd.ledger.entry import Sealer, read_public
from ledgerd.ledger.errors import IntegrityError
from support.auditing import audited
from support.cluster import Cluster, Host
from support.members import SIGNED_AT, node_id, retire, send

ELECTION_SECONDS = 1.0  # `support.cluster` configures it
TRUST, REKEY = "transition_node_to_trusted", "trigger_ledger_rekey"


class Service:
    """A cluster whose one member can change the ledger's secret, and a count of what was written.

    Args: by_vote: Nodes that join wait until the member trusts them.
    """

    def __init__(self, nodes: int = 1, *, by_vote: bool = False, **start: Any) -> None:
        self.cluster = Cluster(app)
        self._signed = SIGNED_AT
        self.written: dict[str, str] = {}  # key to the id of its transaction
        if by_vote:
            self.hosts = self.cluster.start(admission="vote", **start)
            self._activate()
            while len(self.hosts) < nodes:
                self.trust(self.ask_to_join(f"n{len(self.hosts)}"))
        else:
            self.hosts = self.cluster.start(nodes, **start)
        self.cluster.run(0.3)

    def _activate(self) -> None:
        member = self.cluster.member
        path = f"/gov/members/state-digests/{requests.member_id_of(member.certificate)}"

        def say(kind: str, verb: str, body: bytes) -> Answer:
            envelope = requests.sign(member.key, member.certificate, kind, body, created_at=self._signed)
            return send(self.cluster, self.hosts[0], envelope, f"{path}:{verb}?api-version=2024-07-01")

        digest = json.loads(say(requests.STATE_DIGEST, "update", b"").body)["stateDigest"]
        assert say(requests.ACK, "ack", json.dumps({"stateDigest": digest}).encode()).status == 204

    def ask_to_join(self, name: str) -> Host:
        """Add a node that is Pending, which is committed."""
        host = self.cluster.join(name, self.primary().name)
        self.cluster.until(lambda: self.statuses().get(node_id(host)) == tables.PENDING if "node_id" in host.notices else False)
        self.cluster.run(0.3)
        return host

    def trust(self, host: Host) -> None:
        """Have the member trust a node that waits, and wait until it serves."""
        answer = self.propose(self.primary(), (TRUST, {"node_id": node_id(host)}))
        assert answer.status == 200, answer.body
        self.hosts.append(host)
        self.cluster.until(lambda: host.notices.get("open") == "yes")

    def statuses(self, host: Host | None = None) -> dict[str, str]:
        """The status of each node, as it stands in a node's state."""
        records = serving(host or self.primary())._replica.store.map(tables.NODE_INFO).items()
        return {key.decode(): tables.decode(value)["status"] for key, value in records}

    def primary(self, among: list[Host] | None = None) -> Host:
        """Whoever leads, once it has committed in its view."""
        found: list[Host] = []

        def is_settled() -> bool:
            found[:] = [host for host in among or self.hosts if host.alive and serving(host) and serving(host)._consensus.is_settled]
            return len(found) == 1

        self.cluster.until(is_settled)
        return found[0]

    def propose(self, host: Host, *actions: tuple[str, Any]) -> Answer:
        """Have the member propose, which decides."""
        self._signed += 1
        body = json.dumps({"actions": [{"name": name, "args": args} for name, args in actions]}).encode()
        member = self.cluster.member
        return send(self.cluster, host, requests.sign(member.key, member.certificate, requests.PROPOSAL, body, created_at=self._signed))

    def rekey(self, host: Host | None = None, *besides: tuple[str, Any]) -> int:
        """Change the secret; returns the seqno of the entry that does."""
        answer = self.propose(host or self.primary(), *besides, (REKEY, {}))
        assert answer.status == 200, answer.body
        return int(answer.headers["x-ms-ccf-transaction-id"].partition(".")[2])

    def write(self, host: Host, key: str, **headers: str) -> Answer:
        """Write a sealed record, and wait for its commit."""
        answer = self.cluster.client(host).ask("PUT", f"/app/records/{key}", key.encode(), prefer="committed", **headers)
        if answer.status == 204:
            self.written[key] = answer.headers["x-ms-ccf-transaction-id"]
        return answer

    def join(self, name: str, target: str = "n0") -> Host:
        """Let a node join, and wait until it serves."""
        host = self.cluster.join(name, target)
        self.hosts.append(host)
        self.cluster.until(lambda: host.notices.get("open") == "yes")
        return host

    def check(self) -> list[int]:
        """See that all is as it should be; returns the versions of the secrets."""
        self.cluster.run(2 * ELECTION_SECONDS)
        up = [host for host in self.hosts if host.alive]
        assert [host.name for host in self.hosts if host.stopped] == []
        (ledger,) = {tuple(host.entries) for host in up}
        (known,) = {tuple(serving(host).status.secrets()) for host in up}
        versions = [version for version, _ in known]
        audited(ledger, up[0].notices["service_certificate"])
        announced = [number + 1 for number, data in enumerate(ledger, 1) if tables.ENCRYPTED_LEDGER_SECRETS in read_public(data).writes]
        assert versions == [1, *announced]
        sealers = [Sealer(secret) for _, secret in known]
        found: dict[bytes, bytes | None] = {}
        for seqno, data in enumerate(ledger, 1):
            epoch = sum(version <= seqno for version in versions) - 1
            found.update(sealers[epoch].open(data).writes.get("records", {}))
            for other in (*sealers[:epoch], *sealers[epoch + 1 :]):
                with pytest.raises(IntegrityError):
                    other.open(data)
        assert {key.encode() for key in self.written} <= found.keys()
        for host in up:
            for key in self.written:
                assert self.cluster.client(host).ask("GET", f"/app/records/{key}").body == key.encode()
        return versions

    def receipts(self, host: Host) -> None:
        """See that what was written has receipts there that verify, in both forms."""
        certificate = host.notices["service_certificate"]
        key = receipt.public_key(receipt.load_certificate(certificate))
        client = self.cluster.client(host)
        for transaction in self.written.values():
            answer = client.ask("GET", f"/app/receipt?transaction_id={transaction}")
            assert str(receipt.verify_json(answer.body, certificate).transaction_id) == transaction
            answer = client.ask("GET", f"/node/receipt/cose?transaction_id={transaction}")
            assert str(receipt.verify_cose(answer.body, key).transaction_id) == transaction


def serving(host: Host) -> Any:
    return host.enclave._serving


def announced(host: Host) -> list[int]:
    """Versions of the secrets that a node knows."""
    return [version for version, _ in serving(host).status.secrets()]


def cut_off(service: Service, *hosts: Host) -> None:
    """Nobody hears them, and they hear nobody but each other."""
    names = {host.name for host in hosts}
    service.cluster.cut = lambda a, b: (a.name in names) is not (b.name in names)


def heal(service: Service) -> None:
    service.cluster.cut = lambda a, b: False


def test_what_is_written_after_a_change_has_another_secret_and_all_of_it_is_read() -> None:
    service = Service(3)
    service.write(service.hosts[0], "before")
    seqno = service.rekey()
    service.write(service.hosts[1], "after")
    assert service.check() == [1, seqno + 1]
    for host in service.hosts:
        service.receipts(host)


def test_the_secret_before_is_in_the_entry_under_the_one_after() -> None:
    service = Service()
    first, second = service.rekey(), service.rekey()
    (host,) = service.hosts
    (_, secrets) = zip(*serving(host).status.secrets(), strict=True)
    for seqno, key, expected, version, stored in ((first, 1, 0, 1, None), (second, 2, 1, first + 1, first)):
        writes = read_public(host.entries[seqno - 1]).writes
        record = tables.decode(writes[tables.EARLIER_EPOCH][tables.SINGLETON] or b"")["previous_ledger_secret"]
        assert (record["version"], record.get("previous_secret_stored_version")) == (version, stored)
        sealed = base64.b64decode(record["encrypted_data"])
        assert AESGCM(secrets[key]).decrypt(sealed[16:28], sealed[28:] + sealed[:16], None) == secrets[expected]
        boxes = tables.decode(writes[tables.ENCRYPTED_LEDGER_SECRETS][tables.SINGLETON] or b"")
        assert list(boxes) == [node_id(host)]
        assert list(boxes[node_id(host)][0]) == ["encrypted_secret"]


def test_a_proposal_that_asks_twice_changes_it_once_and_one_that_fails_never() -> None:
    service = Service()
    seqno = service.rekey(None, (REKEY, {}))
    answer = service.propose(service.hosts[0], (REKEY, {}), ("remove_node", {"node_id": "00" * 32}), ("transition_node_to_trusted", {}))
    assert answer.status >= 400
    assert service.check() == [1, seqno + 1]


def test_who_joins_after_a_change_reads_all_from_the_beginning() -> None:
    service = Service(2)
    service.write(service.hosts[0], "before")
    first = service.rekey()
    service.write(service.hosts[0], "between")
    second = service.rekey()
    service.write(service.hosts[0], "after")
    host = service.join("late")
    assert service.check() == [1, first + 1, second + 1]
    service.receipts(host)


def test_who_waits_for_trust_during_a_change_is_given_it_afterwards() -> None:
    service = Service(by_vote=True)
    joiner = service.ask_to_join("n1")
    seqno = service.rekey()
    service.cluster.run(0.3)
    service.trust(joiner)
    service.write(joiner, "after")
    assert service.check() == [1, seqno + 1]
    record = serving(joiner)._replica.store.get(tables.NODE_INFO, node_id(joiner).encode())
    assert tables.decode(record)["ledger_secret_seqno"] == seqno + 1, "as getLatestLedgerSecretSeqno has told the constitution"


@pytest.mark.parametrize("order", [(TRUST, REKEY), (REKEY, TRUST)])
def test_trust_and_change_in_one_proposal_give_the_node_its_box(order: tuple[str, str]) -> None:
    service = Service(by_vote=True)
    (host,) = service.hosts
    joiner = service.ask_to_join("n1")
    answer = service.propose(host, *((name, {"node_id": node_id(joiner)} if name == TRUST else {}) for name in order))
    assert answer.status == 200, answer.body
    service.hosts.append(joiner)
    service.cluster.until(lambda: joiner.notices.get("open") == "yes")
    service.write(joiner, "after")
    (_, version) = service.check()
    record = read_public(host.entries[version - 2]).writes[tables.ENCRYPTED_LEDGER_SECRETS][tables.SINGLETON]
    assert set(tables.decode(record or b"")) == {node_id(host), node_id(joiner)}


def test_who_is_trusted_and_has_not_asked_yet_finds_the_change_in_its_box() -> None:
    service = Service(3, by_vote=True)
    primary = service.primary()
    joiner = service.ask_to_join("n9")
    cut_off(service, joiner)
    for stream in list(joiner.streams):
        service.cluster.close_stream(joiner, stream)
    assert service.propose(primary, (TRUST, {"node_id": node_id(joiner)})).status == 200
    seqno = service.rekey(primary)
    service.write(primary, "after")
    assert serving(joiner) is None, "it is trusted, and knows nothing of it"
    heal(service)
    service.hosts.append(joiner)
    service.cluster.until(lambda: joiner.notices.get("open") == "yes")
    assert service.check() == [1, seqno + 1]


def test_no_node_is_trusted_while_a_change_may_still_be_undone() -> None:
    service = Service(3, by_vote=True)
    primary = service.primary()
    joiner = service.ask_to_join("n9")
    cut_off(service, primary)
    assert service.propose(primary, (REKEY, {})).status == 200
    answer = service.propose(primary, (TRUST, {"node_id": node_id(joiner)}))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "NodeNotCommitted")
    assert "change of the ledger's secret" in json.loads(answer.body)["error"]["message"]


def test_automatic_admission_waits_for_a_change_to_be_final() -> None:
    service = Service(3)
    primary = service.primary()
    others = [host for host in service.hosts if host is not primary]
    joiner = service.cluster.join("n9", primary.name)
    records = serving(primary)._replica.store.map(tables.NODE_INFO)
    service.cluster.until(lambda: "node_id" in joiner.notices)
    key = node_id(joiner).encode()
    service.cluster.until(lambda: 0 < (records.version_of(key) or 0) <= serving(primary)._consensus.commit_seqno)
    assert service.statuses(primary)[node_id(joiner)] == tables.PENDING, "committed, and not trusted yet"
    cut_off(service, *others)
    service.rekey(primary)
    service.cluster.run(0.3)
    assert service.statuses(primary)[node_id(joiner)] == tables.PENDING
    heal(service)
    service.hosts.append(joiner)
    service.cluster.until(lambda: joiner.notices.get("open") == "yes")
    assert len(service.check()) == 2


def test_a_change_that_is_undone_is_given_up_by_who_made_it() -> None:
    service = Service(3)
    old = service.primary()
    cut_off(service, old)
    lost = service.rekey(old)
    assert announced(old) == [1, lost + 1]
    new = service.primary([host for host in service.hosts if host is not old])
    service.write(new, "elsewhere")
    heal(service)
    assert service.check() == [1]
    assert announced(old) == [1]
    service.write(service.primary(), "after")
    version = service.rekey() + 1
    service.write(service.hosts[0], "last")
    assert service.check() == [1, version]


def test_another_change_at_the_place_of_one_that_is_undone() -> None:
    service = Service(3)
    old = service.primary()
    cut_off(service, old)
    lost = {service.rekey(old) for _ in range(6)}
    held = dict(serving(old).status.secrets())
    new = service.primary([host for host in service.hosts if host is not old])
    kept = {service.rekey(new) for _ in range(6)}
    service.write(new, "after")
    heal(service)
    assert service.check() == [1, *sorted(seqno + 1 for seqno in kept)]
    assert lost & kept, "some were at the same place"
    now = dict(serving(old).status.secrets())
    assert all(held[seqno + 1] != now[seqno + 1] for seqno in lost & kept)


def test_who_was_away_during_changes_reads_them_back_from_another_disk() -> None:
    service = Service(3)
    away = next(host for host in service.hosts if host is not service.primary())
    cut_off(service, away)
    versions = [1]
    for number in range(3):
        service.write(service.primary([host for host in service.hosts if host is not away]), f"away{number}")
        versions.append(service.rekey(service.primary([host for host in service.hosts if host is not away])) + 1)
    heal(service)
    assert service.check() == versions
    service.receipts(away)


def test_who_leaves_reads_on_until_nobody_needs_it() -> None:
    service = Service(2)
    primary = service.primary()
    leaving = next(host for host in service.hosts if host is not primary)
    seqno = service.rekey(primary, ("remove_node", {"node_id": node_id(leaving)}))
    service.cluster.until(lambda: "retired" in leaving.notices)
    service.write(primary, "after")
    assert leaving.stopped is None
    service.cluster.kill(leaving)
    assert service.check() == [1, seqno + 1]


def test_no_script_writes_what_only_an_attestation_says_of_a_node() -> None:
    script = """
        export const validate = () => ({ valid: true });
        export const resolve = () => "Accepted";
        export function apply(text) {
            const nodes = ccf.kv["public:ccf.gov.nodes.info"];
            const [{ name, args }] = JSON.parse(text).actions;
            nodes.forEach((value, key) => {
                const record = ccf.bufToJsonCompatible(value);
                if (name === "change") record[args.field] = "mine";
                nodes.set(name === "add" ? ccf.strToBuf("ab".repeat(32)) : key, ccf.jsonCompatibleToBuf(record));
            });
        }
    """
    service = Service(constitution=script)
    (host,) = service.hosts
    for action in (("change", {"field": "encryption_pub_key"}), ("change", {"field": "public_key"}), ("add", {})):
        answer = service.propose(host, action)
        assert answer.status == 500
        assert "attestation" in json.loads(answer.body)["error"]["message"]
    assert service.propose(host, ("change", {"field": "node_data"})).status == 200


@pytest.mark.parametrize("seed", range(4))
def test_the_secret_changes_while_nodes_come_go_lead_and_are_cut_off(seed: int) -> None:
    chance = random.Random(seed)
    service = Service(3)
    for step in range(14):
        primary = service.primary()
        choices = ["rekey", "rekey", "write", "apart", "lose the primary"]
        if len(service.hosts) < 5:
            choices += ["join", "join"]
        if len(service.hosts) > 3:
            choices.append("retire")
        choice = chance.choice(choices)
        if choice == "rekey":
            service.rekey(chance.choice(service.hosts))
        elif choice == "write":
            service.write(chance.choice(service.hosts), f"k{step}")
        elif choice == "join":
            service.join(f"j{step}", primary.name)
        elif choice == "retire":
            gone = chance.choice(service.hosts)
            assert retire(service.cluster, primary, gone, created_at=SIGNED_AT + 10_000 + step).status == 200
            service.cluster.until(lambda gone=gone: "retired" in gone.notices)  # type: ignore[misc]
            service.hosts.remove(gone)
            service.cluster.kill(gone)
        else:
            with_it = [] if choice == "apart" or len(service.hosts) < 5 else [next(host for host in service.hosts if host is not primary)]
            cut_off(service, primary, *with_it)
            for _ in range(chance.randint(0, 2)):
                service.rekey(primary)
                service.cluster.client(primary).start("PUT", f"/app/records/lost{step}", b"lost")
            others = [host for host in service.hosts if host is not primary and host not in with_it]
            new = service.primary(others)
            if chance.random() < 0.7:
                service.rekey(new)
                assert service.write(new, f"k{step}").status == 204
            heal(service)
            service.cluster.run(ELECTION_SECONDS)
    service.check()


# What these runs are for.


def test_a_secret_that_outlives_its_rollback_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LedgerSecrets, "rolled_back", lambda self, to: None)
    with pytest.raises(Exception):  # noqa: B017 - a sealer that refuses, ledgers that do not open: by whose turn it is
        test_a_change_that_is_undone_is_given_up_by_who_made_it()


def test_a_node_without_a_box_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(100))
    monkeypatch.setattr(renewal, "boxed", lambda secret, pem: boxed(secret, pem) if next(count) % 2 else b"none")
    with pytest.raises((AssertionError, IntegrityError)):
        test_what_is_written_after_a_change_has_another_secret_and_all_of_it_is_read()


def test_the_past_is_read_across_changes_of_the_secret_by_nodes_old_and_new() -> None:
    service = Service(3)
    for number in range(3):
        service.write(service.primary(), f"in-epoch-{number}")
        service.rekey()
    service.write(service.primary(), "in-the-last")
    late = service.join("n3", service.primary().name)
    service.cluster.run(0.5)
    for host in (*service.hosts[:2], late):
        client = service.cluster.client(host)
        for key, transaction in service.written.items():
            answer = client.ask("GET", f"/app/records/{key}/historical", x_ms_ccf_transaction_id=transaction)
            assert (answer.status, json.loads(answer.body)["message"]) == (200, key)
            proof = receipt.verify_json(json.loads(answer.body)["receipt"], host.notices["service_certificate"])
            assert str(proof.transaction_id) == transaction
        assert past(service.cluster, host) == list(range(1, host.committed + 1))


def past(cluster: Cluster, host: Host) -> list[int]:
    """Seqnos of all states that a node reads back."""
    found: list[int] = []
    ended: list[Any] = []
    serving(host)._historical.read((1, host.committed), lambda states: found.extend(s.transaction_id.seqno for s in states), ended.append)
    cluster.until(lambda: bool(ended))
    assert ended == [None]
    return found
