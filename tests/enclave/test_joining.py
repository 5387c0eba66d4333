"""Who is admitted, who is refused, and by which rule; told to the joiner's operator and in the primary's log."""

import base64
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.apps.logging import app
from ledgerd.enclave import admission, boundary
from ledgerd.enclave.admission import NONCE_LIFETIME_SECONDS
from ledgerd.enclave.core import Enclave
from ledgerd.enclave.keys import NodeKeys
from ledgerd.enclave.nsm import attestation, extend_pcr, lock_pcr, measure_configuration
from ledgerd.governance import tables
from ledgerd.ledger.attestation.binding import service_digest
from ledgerd.ledger.attestation.measurement import configuration_digest, configuration_pcr
from ledgerd.ledger.attestation.nitro import decode
from ledgerd.ledger.entry import read_public
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import make_root
from support.cluster import PCRS, Cluster, Host


def refusal(cluster: Cluster, joiner: Host) -> str:
    cluster.until(lambda: joiner.stopped is not None)
    assert joiner.stopped == 1
    return joiner.notices["refused"]


def warnings(host: Host) -> str:
    return "\n".join(text for level, text in host.logs if level == "warning")


def test_a_node_with_another_measurement_is_refused_by_both_sides() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    other = {**PCRS, 2: b"\x77" * 48}
    # Its own policy is to join only enclaves like itself; so it must be told of the service's to get as far as being refused by it.
    joiner = cluster.join("n1", pcrs=other)
    assert "rule 'measurement'" in refusal(cluster, joiner)
    assert "this node will not join" in joiner.notices["refused"]
    ours = [{"pcr0": PCRS[0].hex(), "pcr1": PCRS[1].hex(), "pcr2": PCRS[2].hex()}]
    target = json.loads(cluster.configuration("n2", "join", join={}))
    assert target["mode"] == "join"
    certificate = cluster.hosts["n0"].notices["service_certificate"]
    join = {"target": {"host": "n0.rpc", "port": 8001}, "service_certificate": certificate, "measurements": ours}
    second = cluster.add("n2", cluster.configuration("n2", "join", join=join), pcrs=other)
    assert "the service refuses this node" in refusal(cluster, second)
    assert "rule 'measurement'" in second.notices["refused"]
    assert "rule 'measurement'" in warnings(cluster.hosts["n0"])


def test_a_debug_enclave_is_refused_before_it_asks() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    assert "rule 'debug'" in refusal(cluster, cluster.join("n1", debug=True))


def test_a_node_below_a_foreign_root_is_refused_by_itself_and_by_the_service() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    foreign = make_root()
    # With the service's roots in its configuration its own document does not verify,
    assert "rule 'root'" in refusal(cluster, cluster.join("n1", root=foreign))
    # and with its own root in it, it does not believe the service.
    joiner = cluster.join("n2", configuration={"consortium": {"roots": [foreign.certificate_pem]}}, root=foreign)
    assert "rule 'root'" in refusal(cluster, joiner)
    # A joiner that believes both is another configuration than the service's, which relies on every node's set of roots.
    both = {"consortium": {"roots": [cluster.root.certificate_pem, foreign.certificate_pem]}}
    assert "rule 'configuration'" in refusal(cluster, cluster.join("n3", configuration=both, root=foreign))


def test_a_node_with_other_limits_does_not_join_and_says_which() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    joiner = cluster.join("n1", configuration={"consensus": {"heartbeat_ms": 50, "election_timeout_ms": 1000}})
    assert "differs from this node's in heartbeat_ms" in refusal(cluster, joiner)


def test_a_joiner_with_another_curve_is_refused_by_both_sides_by_rule(
    recorded: tuple[Cluster, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must be another program that has one: ours takes it from the certificate that it pins."""
    cluster, body = recorded
    client = cluster.client(cluster.hosts["n0"])
    request = {**json.loads(body), "nonce": json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]}
    request["configuration"] = {**request["configuration"], "curve": "secp384r1"}
    message = json.loads(client.ask("POST", "/node/join", json.dumps(request).encode()).body)["error"]["message"]
    assert "rule 'configuration': the joiner's differs from this service's in curve" in message
    monkeypatch.setattr("ledgerd.enclave.configuration.curve_of", lambda certificate: "secp384r1")
    assert "rule 'configuration'" in refusal(cluster, cluster.join("n2"))
    assert "differs from this node's in curve" in cluster.hosts["n2"].notices["refused"]
    # Nor does it help to say what the service says, with a key on the other curve.
    node = NodeKeys("secp384r1")
    request["nonce"] = json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]
    request["configuration"] = json.loads(body)["configuration"]
    request["certificate_signing_request"] = node.certificate_request(("localhost",)).public_bytes(Encoding.PEM).decode()
    answer = client.ask("POST", "/node/join", json.dumps(request).encode())
    assert answer.status == 401
    assert "rule 'curve': its key is on secp384r1" in json.loads(answer.body)["error"]["message"]


def test_a_node_that_asks_with_another_configuration_is_refused_by_the_service_and_told_which(recorded: tuple[Cluster, bytes]) -> None:
    cluster, body = recorded
    client = cluster.client(cluster.hosts["n0"])
    request = {**json.loads(body), "nonce": json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]}
    request["configuration"] = {**request["configuration"], "heartbeat_ms": 50}
    answer = client.ask("POST", "/node/join", json.dumps(request).encode())
    assert answer.status == 401
    assert "rule 'configuration'" in json.loads(answer.body)["error"]["message"]
    assert "in heartbeat_ms" in json.loads(answer.body)["error"]["message"]
    assert "rule 'configuration'" in warnings(cluster.hosts["n0"])


class Forgetful(SimulatedNsm):
    """A module in which PCR16 stays what a test says (None: never extended nor locked), whatever the enclave measures."""

    other: bytes | None = None

    def request(self, request: bytes) -> bytes:
        message = cbor2.loads(request)
        if "ExtendPCR" in message:
            if self.other is not None:
                super().request(cbor2.dumps({"ExtendPCR": {"index": 16, "data": self.other}}))
            return cbor2.dumps({"ExtendPCR": {"data": configuration_pcr(message["ExtendPCR"]["data"])}})
        if "LockPCR" in message and self.other is None:
            return cbor2.dumps("LockPCR")
        return super().request(request)


PCR16: list[tuple[bytes | None, str]] = [(None, "PCR16 absent"), (b"another configuration", "PCR16 ")]


@pytest.mark.parametrize(("other", "seen"), PCR16)
def test_a_joiner_whose_pcr16_does_not_measure_its_configuration_is_refused_by_rule(
    recorded: tuple[Cluster, bytes], other: bytes | None, seen: str
) -> None:
    cluster, body = recorded
    client = cluster.client(cluster.hosts["n0"])
    request = json.loads(body)
    fresh = json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]
    said = decode(base64.b64decode(request["quote_info"]["quote"]))
    other_module = Forgetful(cluster.root, PCRS)
    other_module.other = other
    measure_configuration(other_module, configuration_digest(request["configuration"]))
    document = attestation(other_module, user_data=said.user_data, nonce=bytes.fromhex(fresh), public_key=said.public_key)
    request = {**request, "nonce": fresh, "quote_info": {"format": "AWS_Nitro_v1", "quote": base64.b64encode(document).decode()}}
    answer = client.ask("POST", "/node/join", json.dumps(request).encode())
    assert answer.status == 401
    message = json.loads(answer.body)["error"]["message"]
    assert f"refused by rule 'configuration': {seen}" in message
    # With the configuration in its place the very same request is admitted, so it was that rule alone.
    module = SimulatedNsm(cluster.root, PCRS)
    measure_configuration(module, configuration_digest(request["configuration"]))
    fresh = json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]
    document = attestation(module, user_data=said.user_data, nonce=bytes.fromhex(fresh), public_key=said.public_key)
    request = {**request, "nonce": fresh, "quote_info": {"format": "AWS_Nitro_v1", "quote": base64.b64encode(document).decode()}}
    assert client.ask("POST", "/node/join", json.dumps(request).encode()).status == 200


@pytest.mark.parametrize(("other", "seen"), PCR16)
def test_a_joiner_does_not_believe_a_node_whose_pcr16_does_not_measure_its_configuration(other: bytes | None, seen: str) -> None:
    cluster = Cluster(app)
    (first,) = cluster.start(1)
    module = Forgetful(cluster.root, PCRS)
    module.other = other
    measure_configuration(module, bytes(32))
    first.nsm = module
    reason = refusal(cluster, cluster.join("n1"))
    assert f"this node will not join: the other node's attestation refused by rule 'configuration': {seen}" in reason


OURS = [PCRS[index].hex() for index in range(3)]
OTHER = ["ab" * 48, "cd" * 48, "ef" * 48]


def document_of(*lines: list[str]) -> list[dict[str, str]]:
    return [dict(zip(("pcr0", "pcr1", "pcr2"), line, strict=True)) for line in lines]


def accepts(cluster: Cluster, host: Host) -> object:
    """What a node says that it was told to accept, held to what it attests."""
    shown = json.loads(cluster.client(host).ask("GET", f"/node/attestations/self?nonce={'07' * 32}").body)
    status = host.enclave._serving.status  # type: ignore[union-attr]
    bound = service_digest(status.service.public, bytes.fromhex(shown["genesis_digest"]), shown["accepts"], shown["settings"])
    assert decode(base64.b64decode(shown["raw"])).user_data == bound
    return shown["accepts"]


def join_with(cluster: Cluster, name: str, *lines: list[str]) -> Host:
    certificate = cluster.hosts["n0"].notices["service_certificate"]
    join = {"target": {"host": "n0.rpc", "port": 8001}, "service_certificate": certificate, "measurements": document_of(*lines)}
    joiner = cluster.add(name, cluster.configuration(name, "join", join=join))
    cluster.until(lambda: joiner.notices.get("open") == "yes")
    return joiner


def test_nodes_that_were_told_of_no_image_attest_that_they_accept_their_own() -> None:
    cluster = Cluster(app)
    assert [accepts(cluster, host) for host in cluster.start(2)] == [[OURS], [OURS]]


def test_a_joiner_attests_the_images_that_it_was_told_to_accept() -> None:
    cluster = Cluster(app)
    (first,) = cluster.start(1)
    joiner = join_with(cluster, "n1", OTHER, OURS)
    assert accepts(cluster, joiner) == sorted([OURS, OTHER])
    assert accepts(cluster, first) == [OURS]


def test_a_joiner_attests_what_the_node_that_admitted_it_accepts_too() -> None:
    """Or a host could put a clean node in front of a service whose first node was told to share its key with another image."""
    cluster = Cluster(app)
    (first,) = cluster.start(1, measurements=document_of(OURS, OTHER))
    assert accepts(cluster, first) == sorted([OURS, OTHER])
    assert accepts(cluster, join_with(cluster, "n1", OURS)) == sorted([OURS, OTHER])


def test_a_joiner_does_not_believe_a_node_that_shows_other_accepted_images_than_it_attests() -> None:
    cluster = Cluster(app)
    (first,) = cluster.start(1)
    serving = first.enclave._serving
    assert serving is not None
    answer = serving._documents._show

    def lying(reply_to: object, document: bytes, settings: dict[str, Any]) -> None:
        serving.status.attested.accepts = [OTHER]
        answer(reply_to, document, settings)
        serving.status.attested.accepts = [OURS]

    serving._documents._show = lying  # type: ignore[method-assign]
    assert "rule 'user_data'" in refusal(cluster, cluster.join("n1"))


def test_how_nodes_are_admitted_is_attested_and_a_joiner_believes_nothing_else() -> None:
    cluster = Cluster(app)
    (first,) = cluster.start(1)
    shown = json.loads(cluster.client(first).ask("GET", f"/node/attestations/self?nonce={'07' * 32}").body)
    assert shown["settings"] == {"admission": "automatic", "open_at_nodes": 1, "application_policy": "open"}
    serving = first.enclave._serving
    assert serving is not None
    answer = serving._documents._show

    def lying(reply_to: object, document: bytes, settings: dict[str, Any]) -> None:
        answer(reply_to, document, {**settings, "admission": "vote"})

    serving._documents._show = lying  # type: ignore[method-assign]
    assert "rule 'user_data'" in refusal(cluster, cluster.join("n1"))


@pytest.mark.parametrize("ending", ["\n\n", "", "\nmade by hand\n"])
def test_roots_are_told_by_their_certificate_not_by_their_text(ending: str) -> None:
    cluster = Cluster(app)
    cluster.start(1)
    same = {"consortium": {"roots": ["a comment\n" + cluster.root.certificate_pem.replace("\n", "\r\n").strip() + ending]}}
    joiner = cluster.join("n1", configuration=same)
    cluster.until(lambda: joiner.notices.get("open") == "yes")


@pytest.mark.parametrize(("other", "seen"), PCR16)
def test_an_enclave_whose_module_does_not_measure_its_configuration_says_so_at_start(other: bytes | None, seen: str) -> None:
    cluster = Cluster(app)
    cluster.start(1)
    joiner = cluster.join("n1")
    joiner.nsm = Forgetful(cluster.root, PCRS)
    joiner.nsm.other = other
    assert "this node's own attestation would be refused by every other: " in refusal(cluster, joiner)
    assert f"rule 'configuration': {seen}" in joiner.notices["refused"]


def test_a_pcr16_that_was_used_before_ends_the_enclave() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    joiner = cluster.join("n1")
    extend_pcr(joiner.nsm, 16, b"somebody was here")
    assert "PCR16 was not zero" in refusal(cluster, joiner)
    locked = cluster.join("n2")
    lock_pcr(locked.nsm, 16)
    assert "answers ExtendPCR with ReadOnlyIndex" in refusal(cluster, locked)


def test_a_service_certificate_of_another_service_is_refused_by_the_joiner() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    other = Cluster(app)
    other.start(1)
    certificate = other.hosts["n0"].notices["service_certificate"]
    join = {"target": {"host": "n0.rpc", "port": 8001}, "service_certificate": certificate}
    joiner = cluster.add("n1", cluster.configuration("n1", "join", join=join))
    cluster.until(lambda: joiner.stopped is not None, 200)
    assert "not endorsed by the service certificate" in joiner.notices["refused"]


class Recorder:
    """Keeps the join request that a joiner sends, as only its enclave and a broken one could."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from ledgerd.enclave import joining

        self.bodies: list[bytes] = []
        ask = joining.Joining._ask

        def recording(this: joining.Joining, method: str, path: str, body: bytes, then: object) -> None:
            if path == "/node/join":
                self.bodies.append(body)
            ask(this, method, path, body, then)  # type: ignore[arg-type]

        monkeypatch.setattr(joining.Joining, "_ask", recording)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[Cluster, bytes]:
    """A service of two, and the request with which the second joined."""
    recorder = Recorder(monkeypatch)
    cluster = Cluster(app)
    cluster.start(2)
    return cluster, recorder.bodies[0]


def test_a_replayed_join_request_is_refused_by_rule_nonce(recorded: tuple[Cluster, bytes]) -> None:
    cluster, body = recorded
    answer = cluster.client(cluster.hosts["n0"]).ask("POST", "/node/join", body)
    assert answer.status == 401
    assert json.loads(answer.body)["error"]["code"] == "InvalidQuote"
    assert "rule 'nonce'" in json.loads(answer.body)["error"]["message"]


def test_a_replayed_document_under_a_fresh_nonce_is_refused(recorded: tuple[Cluster, bytes]) -> None:
    cluster, body = recorded
    client = cluster.client(cluster.hosts["n0"])
    fresh = json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]
    request = {**json.loads(body), "nonce": fresh}
    answer = client.ask("POST", "/node/join", json.dumps(request).encode())
    assert answer.status == 401
    assert "rule 'nonce'" in json.loads(answer.body)["error"]["message"]


def test_another_encryption_key_beside_a_genuine_document_is_refused(
    recorded: tuple[Cluster, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, body = recorded
    request = json.loads(body)
    request["public_encryption_key"] = "A" * 43 + "="
    # Even if the nonce could be used again, the key is bound in user_data.
    admission = cluster.hosts["n0"].enclave._serving._admission  # type: ignore[union-attr]
    admission._nonces._given[bytes.fromhex(request["nonce"])] = float("inf")
    answer = cluster.client(cluster.hosts["n0"]).ask("POST", "/node/join", json.dumps(request).encode())
    assert answer.status == 401
    assert "rule 'user_data'" in json.loads(answer.body)["error"]["message"]


def test_a_stale_nonce_is_refused(recorded: tuple[Cluster, bytes]) -> None:
    cluster, body = recorded
    client = cluster.client(cluster.hosts["n0"])
    nonce = json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]
    cluster.run(NONCE_LIFETIME_SECONDS + 1)
    answer = client.ask("POST", "/node/join", json.dumps({**json.loads(body), "nonce": nonce}).encode())
    assert answer.status == 401
    assert "rule 'nonce'" in json.loads(answer.body)["error"]["message"]


def test_a_nonce_is_good_once_even_after_a_refusal(recorded: tuple[Cluster, bytes]) -> None:
    cluster, body = recorded
    client = cluster.client(cluster.hosts["n0"])
    nonce = json.loads(client.ask("POST", "/node/join/nonce").body)["nonce"]
    request = json.dumps({**json.loads(body), "nonce": nonce}).encode()
    first = client.ask("POST", "/node/join", request)
    second = client.ask("POST", "/node/join", request)
    assert "stale, used" not in json.loads(first.body)["error"]["message"]
    assert "stale, used" in json.loads(second.body)["error"]["message"]


def test_no_secret_leaves_before_the_record_of_the_attestation_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(app)
    first = cluster.start(1)[0]
    first.stores = False  # nothing commits any more
    joiner = cluster.join("n1")
    cluster.run(5)
    assert "gave the service's secrets" not in "\n".join(text for _, text in first.logs)
    assert joiner.notices.get("state") is None


def test_the_ledger_records_who_was_pending_before_it_was_trusted() -> None:
    cluster = Cluster(app)
    first, second = cluster.start(2)
    key = second.notices["node_id"].encode()
    statuses = []
    for data in first.entries:
        value = read_public(data).writes.get(tables.NODE_INFO, {}).get(key)
        if value is not None:
            statuses.append(tables.decode(value)["status"])
    assert statuses == [tables.PENDING, tables.TRUSTED]


def test_with_admission_by_vote_a_node_waits_as_pending() -> None:
    cluster = Cluster(app)
    cluster.start(1, admission="vote")
    joiner = cluster.join("n1")
    cluster.run(3)
    nodes = json.loads(cluster.client(cluster.hosts["n0"]).ask("GET", "/node/network/nodes").body)["nodes"]
    assert {node["status"] for node in nodes} == {"Trusted", "Pending"}
    assert joiner.notices.get("service_certificate") is None
    state = json.loads(cluster.client(joiner).ask("GET", "/node/state").body)
    assert state["state"] == "Pending"


def test_a_joiner_that_asks_a_backup_follows_to_the_primary() -> None:
    cluster = Cluster(app)
    cluster.start(2)
    joiner = cluster.join("n2", target="n1")
    cluster.until(lambda: joiner.notices.get("open") == "yes")


def test_a_joiner_that_was_led_to_a_primary_which_is_gone_asks_the_node_of_its_configuration_again() -> None:
    cluster = Cluster(app)
    first, *_ = cluster.start(3)
    cluster.run(1)  # so that everybody knows that the configuration of three is final
    cluster.kill(first)
    joiner = cluster.join("n3", target="n1")  # which still takes the first one for the primary, and says so
    cluster.until(lambda: joiner.notices.get("open") == "yes")
    assert "no connection to n0.rpc" in warnings(joiner)


def test_a_joiner_goes_on_with_the_primary_when_the_node_of_its_configuration_is_gone() -> None:
    cluster = Cluster(app)
    first, second, _ = cluster.start(3)
    first.stores = False  # so that it takes a while
    joiner = cluster.join("n3", target="n1")
    cluster.run(1)
    cluster.kill(second)
    for stream, (end, _) in list(joiner.streams.items()):
        if end is first:
            cluster.close_stream(joiner, stream)
            joiner.inbox.append(boundary.Closed(stream))
    first.stores = True
    cluster.until(lambda: joiner.notices.get("open") == "yes")


def test_a_ledger_that_does_not_begin_with_the_attested_genesis_stops_the_joiner() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    joiner = cluster.join("n1")
    cluster.until(lambda: joiner.enclave._serving is not None)
    joiner.enclave._serving._replica.genesis_expected = bytes(32)  # type: ignore[union-attr]
    cluster.until(lambda: joiner.stopped is not None)
    assert "another ledger" in joiner.notices["refused"]


def cut_off(cluster: Cluster, *names: str) -> None:
    """Cut nodes off from all others, but not from each other."""
    cluster.cut = lambda a, b: (a.name in names) is not (b.name in names)
    for host in cluster.hosts.values():
        for stream, (end, _) in list(host.streams.items()):
            if isinstance(end, Host) and cluster.cut(host, end):
                cluster.close_stream(host, stream)
                host.inbox.append(boundary.Closed(stream))


def test_a_joiner_whose_admission_an_election_has_undone_says_that_the_others_may_not_know_of_it() -> None:
    cluster = Cluster(app)
    first, second, third = cluster.start(3)
    joiner = cluster.join("n3")

    def is_pending_for_good() -> bool:
        serving = first.enclave._serving
        assert serving is not None
        records = serving._replica.store.map(tables.NODE_INFO)
        version = records.version_of(joiner.notices.get("node_id", "").encode())
        return version is not None and version <= serving._consensus.commit_seqno

    cluster.until(is_pending_for_good)
    cut_off(cluster, first.name, joiner.name)  # so that it is trusted by one whom a majority leaves behind
    cluster.until(lambda: joiner.notices.get("open") == "yes")
    cluster.kill(first)
    cluster.until(lambda: "primary" in (second.notices.get("role"), third.notices.get("role")))
    cluster.cut = lambda a, b: False
    assert "not know of it" not in warnings(joiner)
    cluster.run(30)
    assert warnings(joiner).count("not know of it") == 1
    nodes = json.loads(cluster.client(second).ask("GET", "/node/network/nodes").body)["nodes"]
    assert {node["node_id"]: node["status"] for node in nodes}[joiner.notices["node_id"]] == "Pending"
    assert joiner.stopped is None
    assert "not know of it" not in warnings(second) + warnings(third), "whose admission is final"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"nonce":1}', b"[" * 100_000])
def test_a_malformed_join_request_is_a_400(body: bytes) -> None:
    cluster = Cluster(app)
    cluster.start(1)
    answer = cluster.client(cluster.hosts["n0"]).ask("POST", "/node/join", body)
    assert answer.status == 400


def test_a_malformed_configuration_ends_the_enclave_with_the_key_that_is_wrong() -> None:
    enclave = Enclave(app, 0.0)
    enclave.receive([boundary.Configured(b'{"mode": "start"}')])
    ready = enclave.ready()
    assert ready.stop == 1
    assert any("'node'" in text for _, text in ready.notices)


def test_nodes_are_let_in_one_after_the_other_while_one_reads_a_long_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CATCHING_UP_ENTRIES", 5)
    cluster = Cluster(app)
    (first, *_) = cluster.start(3)
    slow = cluster.join("slow")
    slow.stores = False  # it answers, and acknowledges nothing
    cluster.until(lambda: any("is trusted and catches up" in text for _, text in slow.logs))
    cluster.client(first).ask("PUT", "/app/records/k", b"v", prefer="committed")
    next_one = cluster.join("next")
    cluster.run(3.0)
    assert "open" not in next_one.notices, "with both, a majority of five would need one of the two"
    assert cluster.client(first).ask("PUT", "/app/records/k", b"w", prefer="committed").status == 204
    cluster.kill(slow)  # one that does not answer is not waited for
    cluster.until(lambda: next_one.notices.get("open") is not None)
    assert cluster.client(next_one).ask("PUT", "/app/records/k", b"x", prefer="committed").status == 204


def test_the_primary_warns_where_nothing_commits_until_a_joiner_has_read_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CATCHING_UP_ENTRIES", 5)
    cluster = Cluster(app)
    (n0,) = cluster.start(1)
    client = cluster.client(n0)
    for number in range(10):
        client.ask("PUT", f"/app/records/{number}", b"v")
    cluster.run(0.1)
    second = cluster.join("n1")
    cluster.until(lambda: second.notices.get("open") is not None)
    (warning,) = [line for line in warnings(n0).splitlines() if "nothing commits until" in line]
    assert second.notices["node_id"][:16] in warning
    assert warning.endswith("it takes 2 of 2 nodes, and of the others 1 is up")
    third = cluster.join("n2")
    cluster.until(lambda: third.notices.get("open") is not None)
    assert warnings(n0).count("nothing commits until") == 1, "two of three are up"
