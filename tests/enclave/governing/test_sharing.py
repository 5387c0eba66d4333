"""Recovery shares: from a ledger and enough members' keys to every private value, whatever happened before; and not from fewer."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from ledgerd.ledger import shares
from ledgerd.ledger.entry import read_public
from support.auditing import audited
from support.cluster import BY_VOTE, Cluster, Host, Identity, make_identity
from support.governed import id_of
from support.members import SIGNED_AT, send
from support.recovered import decrypted, opened_by, secrets_of, unwrapped

VERSION = "?api-version=2024-07-01"
KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(4)]


def pem_of(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()  # type: ignore[no-any-return]


class Consortium:
    """Members who govern by vote, each with an encryption key but where told otherwise; all have acknowledged.

    Args: keys: Of each member; None for one without.
    """

    def __init__(self, keys: Sequence[Any] = KEYS[:3], *, is_open: bool = True, constitution: str = BY_VOTE) -> None:
        self.members = [make_identity(f"member{number}") for number in range(len(keys))]
        self.keys = {id_of(member): key for member, key in zip(self.members, keys, strict=True)}
        parties = [
            {"certificate": member.pem, "data": None, **({} if key is None else {"encryption_key": pem_of(key)})}
            for member, key in zip(self.members, keys, strict=True)
        ]
        self.cluster = Cluster(app)
        self.host = self.cluster.begin(admission="vote", members=parties, open_at_nodes=None, constitution=constitution)
        self.time = SIGNED_AT
        for member in self.members:
            self.activate(member)
        if is_open:
            assert self.open().status == 200

    def send(self, who: Identity, kind: str, path: str, payload: Any = b"", **about: Any) -> Answer:
        """Sign something and send it."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.time += 1
        envelope = requests.sign(who.key, who.certificate, kind, body, created_at=self.time, **about)
        return send(self.cluster, self.host, envelope, f"/gov/{path}{VERSION}")

    def activate(self, who: Identity) -> None:
        """Have a member acknowledge the state."""
        path = f"members/state-digests/{id_of(who)}"
        digest = json.loads(self.send(who, "state_digest", f"{path}:update").body)["stateDigest"]
        assert self.send(who, "ack", f"{path}:ack", {"stateDigest": digest}).status == 204

    def decide(self, *actions: tuple[str, Any]) -> Answer:
        """Propose, and vote until it is decided."""
        wanted = {"actions": [{"name": name, "args": args} for name, args in actions]}
        answer = self.send(self.members[0], "proposal", "members/proposals:create", wanted)
        for who in self.members:
            if answer.status != 200 or json.loads(answer.body)["proposalState"] != "Open":
                break
            name = json.loads(answer.body)["proposalId"]
            path = f"members/proposals/{name}/ballots/{id_of(who)}:submit"
            answer = self.send(who, "ballot", path, {"ballot": "export const vote = () => true;"}, proposal_id=name)
        return answer

    def open(self) -> Answer:
        """Open the service."""
        return self.decide(("transition_service_to_open", {"next_service_identity": self.host.notices["service_certificate"]}))

    def write(self, key: str) -> None:
        """Write something private."""
        assert self.cluster.client(self.host).ask("PUT", f"/app/records/{key}", key.encode(), prefer="committed").status == 204

    def share(self, who: Identity) -> Answer:
        """What the service says of a member's share."""
        return self.cluster.client(self.host).ask("GET", f"/gov/recovery/encrypted-shares/{id_of(who)}{VERSION}")

    def recovered(self, *who: Identity) -> set[bytes]:
        """The keys of all private records, as these members have them from the ledger alone."""
        self.cluster.run(1.0)
        secrets = secrets_of(self.host.entries, {id_of(member): self.keys[id_of(member)] for member in who})
        assert secrets == dict(serving(self.host).status.secrets())
        found: set[bytes] = set()
        for entry in opened_by(self.host.entries, secrets):
            found |= entry.writes.get("records", {}).keys()
        return found

    def audit(self) -> None:
        """Governance follows from the ledger, for who has no key."""
        self.cluster.run(1.0)
        audited(self.host.entries, self.host.notices["service_certificate"])


def serving(host: Host) -> Any:
    return host.enclave._serving


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def test_from_the_opening_on_enough_members_have_every_private_value_from_the_ledger_alone() -> None:
    consortium = Consortium(is_open=False)
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 2})).status == 200
    first, second, third = consortium.members
    assert code(consortium.share(first)) == (404, "ResourceNotFound"), "before it is open there is nothing to be recovered"
    assert consortium.open().status == 200
    consortium.write("a")
    assert consortium.recovered(first, second) == consortium.recovered(third, first) == {b"a"}
    for one in consortium.members:
        with pytest.raises(InvalidTag):
            consortium.recovered(one)
    consortium.audit()


def test_a_member_is_given_its_own_share_which_openssl_and_ccfs_format_know() -> None:
    consortium = Consortium()
    record = tables.decode(serving(consortium.host)._replica.store.get(tables.RECOVERY_SHARES, tables.SINGLETON))
    assert set(record) == {"wrapped_latest_ledger_secret", "encrypted_shares"}
    for place, who in enumerate(sorted(consortium.members, key=id_of), 1):
        answer = json.loads(consortium.share(who).body)
        assert answer == {"memberId": id_of(who), "encryptedShare": record["encrypted_shares"][id_of(who)]}
        share = decrypted(answer["encryptedShare"], consortium.keys[id_of(who)])
        assert (len(share), int.from_bytes(share[:4], "little")) == (44, place)
    assert len(base64.b64decode(record["wrapped_latest_ledger_secret"])) == 60


def test_a_change_of_the_secret_and_another_leave_all_of_the_ledger_to_the_new_shares() -> None:
    consortium = Consortium()
    consortium.write("a")
    for key in ("b", "c"):
        assert consortium.decide(("trigger_ledger_rekey", {})).status == 200
        assert consortium.recovered(consortium.members[0]) >= {b"a"}, "at once, by the entry itself"
        consortium.write(key)
    assert consortium.decide(("trigger_recovery_shares_refresh", {})).status == 200
    assert consortium.recovered(consortium.members[2]) == {b"a", b"b", b"c"}
    consortium.audit()


def test_a_change_before_the_opening_is_in_the_chain() -> None:
    consortium = Consortium(is_open=False)
    assert consortium.decide(("trigger_ledger_rekey", {})).status == 200
    assert consortium.open().status == 200
    assert consortium.decide(("trigger_ledger_rekey", {})).status == 200
    consortium.write("a")
    assert consortium.recovered(consortium.members[0]) == {b"a"}
    consortium.audit()


def test_who_becomes_active_in_an_open_service_has_a_share_from_then_on() -> None:
    consortium = Consortium()
    late = make_identity("late")
    consortium.keys[id_of(late)] = KEYS[3]
    assert consortium.decide(("set_member", {"cert": late.pem, "encryption_pub_key": pem_of(KEYS[3])})).status == 200
    assert consortium.share(late).status == 404
    consortium.write("a")
    consortium.activate(late)
    assert consortium.share(late).status == 200
    assert consortium.recovered(late) == {b"a"}
    consortium.audit()


def test_who_becomes_active_without_a_key_changes_no_shares() -> None:
    consortium = Consortium()
    before = consortium.share(consortium.members[0]).body
    late = make_identity("late")
    assert consortium.decide(("set_member", {"cert": late.pem})).status == 200
    consortium.activate(late)
    assert (consortium.share(late).status, consortium.share(consortium.members[0]).body) == (404, before)
    consortium.audit()


def test_who_is_removed_has_no_part_in_what_is_written_afterwards() -> None:
    consortium = Consortium()
    gone = consortium.members[2]
    old = decrypted(json.loads(consortium.share(gone).body)["encryptedShare"], consortium.keys[id_of(gone)])
    consortium.write("a")
    assert consortium.decide(("remove_member", {"member_id": id_of(gone)})).status == 200
    consortium.write("b")
    assert consortium.share(gone).status == 404
    assert consortium.recovered(consortium.members[0]) == {b"a", b"b"}
    key = shares.wrapping_key(shares.combine([old]))  # one is enough here, by the threshold
    record = tables.decode(serving(consortium.host)._replica.store.get(tables.RECOVERY_SHARES, tables.SINGLETON))
    with pytest.raises(InvalidTag):
        unwrapped(key, record["wrapped_latest_ledger_secret"])
    consortium.audit()


def test_a_new_threshold_holds_at_once_for_the_new_shares() -> None:
    consortium = Consortium()
    consortium.write("a")
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 3})).status == 200
    assert consortium.recovered(*consortium.members) == {b"a"}
    with pytest.raises(InvalidTag):
        consortium.recovered(*consortium.members[:2])
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 4})).status == 500
    consortium.audit()


def test_an_owner_alone_has_the_key_and_a_member_without_part_none() -> None:
    consortium = Consortium()
    owner, outside = make_identity("owner"), make_identity("outside")
    consortium.keys |= {id_of(owner): KEYS[3], id_of(outside): KEYS[3]}
    for who, role in ((owner, "Owner"), (outside, "NonParticipant")):
        wanted = {"cert": who.pem, "encryption_pub_key": pem_of(KEYS[3]), "recovery_role": role}
        assert consortium.decide(("set_member", wanted)).status == 200
        consortium.activate(who)
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 3})).status == 200
    consortium.write("a")
    assert consortium.share(outside).status == 404
    assert consortium.recovered(owner) == {b"a"}
    assert int.from_bytes(decrypted(json.loads(consortium.share(owner).body)["encryptedShare"], KEYS[3])[:4], "little") == shares.WHOLE
    consortium.audit()


def test_where_nobody_has_a_key_the_service_opens_without_shares_and_the_operator_is_told() -> None:
    consortium = Consortium([None, None])
    assert any(level == "warning" and "no recovery shares" in text for level, text in consortium.host.logs)
    assert consortium.share(consortium.members[0]).status == 404
    assert consortium.decide(("trigger_ledger_rekey", {})).status == 200
    consortium.write("a")
    consortium.audit()


def test_fewer_members_with_keys_than_it_takes_do_not_open_a_service() -> None:
    consortium = Consortium([KEYS[0], None, None], is_open=False)
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 2})).status == 200
    answer = consortium.open()
    assert code(answer) == (500, "InternalError")
    assert "it takes 2 to recover" in json.loads(answer.body)["error"]["message"]
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 1})).status == 200
    assert consortium.open().status == 200
    consortium.audit()


def test_a_service_that_opens_by_itself_has_shares_too() -> None:
    cluster = Cluster(app)
    member = {"certificate": cluster.member.pem, "data": None, "encryption_key": pem_of(KEYS[0])}
    hosts = cluster.start(3, members=[member])
    cluster.run(1.0)
    ledger = hosts[0].entries
    secrets = secrets_of(ledger, {id_of(cluster.member): KEYS[0]})
    assert secrets == dict(serving(hosts[2]).status.secrets())
    (opening,) = [data for data in ledger if tables.RECOVERY_SHARES in read_public(data).writes]
    chain = read_public(opening).writes[tables.EARLIER_EPOCH][tables.SINGLETON]
    assert tables.decode(chain or b"") == {"next_version": 1}
    audited(ledger, hosts[0].notices["service_certificate"])


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(public_exponent=65537, key_size=1024)])
def test_a_genesis_with_a_key_to_which_nothing_can_be_encrypted_is_refused(key: Any) -> None:
    cluster = Cluster(app)
    member = {"certificate": cluster.member.pem, "data": None, "encryption_key": pem_of(key)}
    with pytest.raises(AssertionError, match="no RSA public key"):
        cluster.begin(members=[member])


def test_no_share_is_waited_for() -> None:
    consortium = Consortium()
    who = consortium.members[0]
    share = json.loads(consortium.share(who).body)["encryptedShare"]
    answer = consortium.send(who, "recovery_share", f"recovery/members/{id_of(who)}:recover", {"share": share})
    assert code(answer) == (403, "ServiceNotWaitingForRecoveryShares")


def test_what_is_shown_of_a_proposal_before_the_vote_makes_no_shares() -> None:
    """Otherwise whoever may ask could have the key shared among fewer than it takes."""
    consortium = Consortium()
    assert consortium.decide(("set_recovery_threshold", {"recovery_threshold": 3})).status == 200
    client = consortium.cluster.client(consortium.host, consortium.members[0])
    body = json.dumps({"actions": [{"name": "set_recovery_threshold", "args": {"recovery_threshold": 1}}]}).encode()
    answer = client.ask("POST", f"/gov/members/proposals:preview{VERSION}", body, content_type="application/json")
    assert answer.status == 200, answer.body
    shown = {change["table"]: change["after"] for change in json.loads(answer.body)["changes"]}
    record = json.loads(base64.b64decode(shown[tables.RECOVERY_SHARES]["data"]))
    assert record == {
        "wrapped_latest_ledger_secret": "(encrypted)",
        "encrypted_shares": dict.fromkeys(sorted(consortium.keys), "(encrypted)"),
    }


def test_while_a_service_recovers_nothing_of_it_changes() -> None:
    script = """
        export const validate = () => ({ valid: true });
        export const resolve = () => "Accepted";
        export function apply(text) {
            const info = ccf.bufToJsonCompatible(ccf.kv["public:ccf.gov.service.info"].get(new ArrayBuffer(8)));
            info.status = "Recovering";
            ccf.kv["public:ccf.gov.service.info"].set(new ArrayBuffer(8), ccf.jsonCompatibleToBuf(info));
            ccf.node[JSON.parse(text).actions[0].name]();
        }
    """
    consortium = Consortium(is_open=False, constitution=script)
    for name in ("triggerLedgerRekey", "triggerRecoverySharesRefresh"):
        answer = consortium.decide((name, {}))
        assert code(answer) == (500, "InternalError")
        assert "the service is Recovering" in json.loads(answer.body)["error"]["message"]
