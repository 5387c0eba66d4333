"""What anybody reads of the tables at `/gov/service`: CCF's shapes, field by field."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.apps.logging import app
from ledgerd.governance import tables
from support.cluster import PCRS, Cluster, make_identity
from support.executing import USER, error_of
from support.governed import ALICE, BOB, CAROL, VERSION, Governed, code, id_of

NOBODY = "09" * 32
NODE = "cd" * 32


@pytest.fixture
def node() -> Governed:
    return Governed()


# Members, users, nodes.


def test_members(node: Governed) -> None:
    record = {"status": "Accepted", "member_data": None, "recovery_role": "Owner"}
    node.put(
        {
            tables.MEMBER_INFO: {id_of(CAROL).encode(): tables.encode(record)},
            tables.MEMBER_ENCRYPTION_KEYS: {id_of(who).encode(): b"KEY" for who in (BOB, CAROL)},
        }
    )
    alice: dict[str, Any] = {
        "memberId": id_of(ALICE),
        "status": "Active",
        "certificate": ALICE.pem,
        "memberData": "alice",
        "recoveryRole": "NonParticipant",
    }
    bob: dict[str, Any] = {
        "memberId": id_of(BOB),
        "status": "Active",
        "certificate": BOB.pem,
        "memberData": "bob",
        "publicEncryptionKey": "KEY",
        "recoveryRole": "Participant",
    }
    carol: dict[str, Any] = {
        "memberId": id_of(CAROL),
        "status": "Accepted",
        "certificate": CAROL.pem,
        "memberData": None,
        "publicEncryptionKey": "KEY",
        "recoveryRole": "Owner",
    }
    assert node.read(f"/service/members/{id_of(ALICE)}") == alice
    assert node.read(f"/service/members/{id_of(BOB)}") == bob
    assert node.read(f"/service/members/{id_of(CAROL)}") == carol
    listed = node.read("/service/members")
    assert listed.keys() == {"value"}
    assert sorted(listed["value"], key=lambda member: member["certificate"]) == sorted((alice, bob, carol), key=lambda m: m["certificate"])


def test_users(node: Governed) -> None:
    shown = node.read(f"/service/users/{USER}")
    assert shown == {"userId": USER, "certificate": "PEM", "userData": {"role": "clerk"}}
    assert node.read("/service/users") == {"value": [shown, {"userId": "cd" * 32, "certificate": "PEM", "userData": None}]}


def test_nodes(node: Governed) -> None:
    interface = {"bind_address": "0.0.0.0:8000", "published_address": "n0:8000", "protocol": "tcp"}
    record: dict[str, Any] = {
        "status": "Pending",
        "retired_committed": False,
        "quote_info": {"format": "AWS_Nitro_v1", "quote": "cXVvdGU=", "endorsements": ""},
        "rpc_interfaces": {"primary_rpc_interface": interface, "second": {**interface, "app_protocol": "HTTP2"}},
        "node_data": {"rack": 7},
    }
    guest = {
        **record,
        "quote_info": {
            "format": "AMD_SEV_SNP_v1",
            "quote": "cXVvdGU=",
            "endorsements": "ZW5k",
            "uvm_endorsements": "dXZt",
            "endorsed_tcb": "d315000000000004",
        },
        "status": "Retired",
        "retired_committed": True,
    }
    del guest["node_data"]
    node.put({tables.NODE_INFO: {NODE.encode(): tables.encode(record), b"ce" * 32: tables.encode(guest)}})
    interfaces = {
        "primary_rpc_interface": {"publishedAddress": "n0:8000", "protocol": "HTTP1"},
        "second": {"publishedAddress": "n0:8000", "protocol": "HTTP2"},
    }
    waiting = {
        "nodeId": NODE,
        "status": "Pending",
        "nodeData": {"rack": 7},
        "retiredCommitted": False,
        "quoteInfo": {"format": "AWS_Nitro_v1", "quote": "cXVvdGU=", "endorsements": ""},
        "rpcInterfaces": interfaces,
    }
    assert node.read(f"/service/nodes/{NODE}") == waiting
    node.put({tables.NODE_ENDORSED_CERTIFICATES: {NODE.encode(): b"PEM"}})
    assert node.read(f"/service/nodes/{NODE}") == {**waiting, "certificate": "PEM"}
    shown = node.read(f"/service/nodes/{'ce' * 32}")
    assert shown["quoteInfo"] == {
        "format": "AMD_SEV_SNP_v1",
        "uvmEndorsements": "dXZt",
        "endorsedTcb": base64.b64encode(bytes.fromhex("d315000000000004")).decode(),
    }
    assert (shown["status"], shown["retiredCommitted"], shown["nodeData"]) == ("Retired", True, None)
    assert [each["nodeId"] for each in node.read("/service/nodes")["value"]] == [NODE, "ce" * 32]


@pytest.mark.parametrize("what", ["members", "users", "nodes"])
def test_who_is_not_there_is_not_found(node: Governed, what: str) -> None:
    refusal = node.get(f"/service/{what}/{NOBODY}")
    assert code(refusal) == (404, "ResourceNotFound")
    assert f"/gov/service/{what}" in error_of(refusal)["message"]


# The service.


def test_the_service_and_its_configuration(node: Governed) -> None:
    assert code(node.get("/service/info")) == (404, "ResourceNotFound")
    record = {"cert": "PEM", "status": "Opening", "current_service_create_txid": "2.1", "recovery_count": 0, "service_data": {"a": 1}}
    node.put({tables.SERVICE_INFO: {tables.SINGLETON: tables.encode(record)}})
    shown = {"status": "Opening", "certificate": "PEM", "recoveryCount": 0, "creationTransactionId": "2.1", "serviceData": {"a": 1}}
    assert node.read("/service/info") == shown
    node.put({tables.SERVICE_CONFIG: {tables.SINGLETON: b'{"recovery_threshold":2}'}})
    configuration = {
        "recoveryThreshold": 2,
        "maximumNodeCertificateValidityDays": 365,
        "maximumServiceCertificateValidityDays": 365,
        "recentCoseProposalsWindowSize": 100,
    }
    assert node.read("/service/info") == {**shown, "configuration": configuration}
    own = {
        "recovery_threshold": 3,
        "maximum_node_certificate_validity_days": 30,
        "maximum_service_certificate_validity_days": 60,
        "recent_cose_proposals_window_size": 4,
    }
    node.put({tables.SERVICE_CONFIG: {tables.SINGLETON: tables.encode(own)}})
    assert list(node.read("/service/info")["configuration"].values()) == [3, 30, 60, 4]


def test_a_recovered_service_names_the_one_before(node: Governed) -> None:
    record = {"cert": "PEM", "status": "Open", "recovery_count": 1, "previous_service_identity_version": 1}
    node.put({tables.SERVICE_INFO: {tables.SINGLETON: tables.encode(record)}})
    shown = node.read("/service/info")
    assert (shown["recoveryCount"], shown["previousServiceCreationTransactionId"]) == (1, "2.1")


def test_the_constitution_is_given_as_the_script_that_it_is(node: Governed) -> None:
    node.put({tables.CONSTITUTION: {tables.SINGLETON: None}})
    assert code(node.get("/service/constitution")) == (404, "ResourceNotFound")
    node.put({tables.CONSTITUTION: {tables.SINGLETON: tables.encode("export function validate() { return 'ü'; }\n")}})
    answer = node.get("/service/constitution")
    assert (answer.status, answer.content_type) == (200, "text/javascript")
    assert answer.body.decode() == "export function validate() { return 'ü'; }\n"
    node.put({tables.CONSTITUTION: {tables.SINGLETON: b'""'}})
    answer = node.get("/service/constitution")
    assert (answer.status, answer.body, answer.content_type) == (200, b"", "")


def test_transactions(node: Governed) -> None:
    assert node.read("/service/transactions/2.1") == {"transactionId": "2.1", "status": "Committed"}
    assert node.read("/service/transactions/2.900") == {"transactionId": "2.900", "status": "Unknown"}
    assert node.read("/service/transactions/commit") == {"transactionId": "2.1", "status": "Committed"}


@pytest.mark.parametrize("text", ["2", "2.", ".1", "2.1.1", "a.b", "-1.1", "2.1%20", "%F0%9F%92%A9"])
def test_what_is_no_transaction_is_refused(node: Governed, text: str) -> None:
    assert code(node.get(f"/service/transactions/{text}")) == (400, "InvalidQueryParameterValue")


# The application in JavaScript.


def test_the_application(node: Governed) -> None:
    assert node.read("/service/javascript-app") == {"endpoints": {}}
    full = {
        "js_module": "main.js",
        "js_function": "put",
        "forwarding_required": "sometimes",
        "redirection_strategy": "to_primary",
        "authn_policies": ["user_cert", {"all_of": ["member_cert", "jwt"]}],
        "mode": "historical",
        "openapi": {"summary": "s"},
    }
    least = {"js_module": "main.js", "js_function": "get"}
    node.put({tables.ENDPOINTS: {b"PUT /a/{b}": tables.encode(full), b"GET /a/{b}": tables.encode(least), b"GET /c": tables.encode(least)}})
    shown_full = {
        "jsModule": "main.js",
        "jsFunction": "put",
        "forwardingRequired": "sometimes",
        "redirectionStrategy": "to_primary",
        "authnPolicies": ["user_cert", {"all_of": ["member_cert", "jwt"]}],
        "mode": "historical",
        "openApi": {"summary": "s"},
    }
    shown_least = {
        "jsModule": "main.js",
        "jsFunction": "get",
        "forwardingRequired": "always",
        "redirectionStrategy": "none",
        "authnPolicies": [],
        "mode": "readwrite",
        "openApi": {},
    }
    expected = {"/a/{b}": {"GET": shown_least, "PUT": shown_full}, "/c": {"GET": shown_least}}
    assert node.read("/service/javascript-app") == {"endpoints": expected}
    original = json.loads(node.get("/service/javascript-app", VERSION + "&case=original").body)
    assert original == {"endpoints": {"/a/{b}": {"GET": least, "PUT": full}, "/c": {"GET": least}}}
    assert code(node.get("/service/javascript-app", VERSION + "&case=upper")) == (400, "InvalidQueryParameterValue")


def test_its_modules(node: Governed) -> None:
    assert node.read("/service/javascript-modules") == {"value": []}
    node.put({tables.MODULES: {b"/src/main.js": b"export let a = 1;", "/ü.js".encode(): b""}})
    assert node.read("/service/javascript-modules") == {"value": [{"moduleName": "/src/main.js"}, {"moduleName": "/ü.js"}]}
    answer = node.get("/service/javascript-modules/%2Fsrc%2Fmain.js")
    assert (answer.status, answer.content_type, answer.body) == (200, "text/javascript", b"export let a = 1;")
    assert node.get("/service/javascript-modules/%2F%C3%BC.js").status == 200
    refusal = node.get("/service/javascript-modules/main.js")
    assert code(refusal) == (404, "ResourceNotFound")
    assert "%2F" in error_of(refusal)["message"]
    assert code(node.get("/service/javascript-modules/%2")) == (400, "InvalidResourceName")


# What the service accepts.


def test_the_join_policy(node: Governed) -> None:
    nothing: dict[str, Any] = {"measurements": [], "hostData": {}, "uvmEndorsements": {}, "tcbVersions": {}}
    never: dict[str, Any] = {"sgx": {"measurements": []}, "virtual": {"measurements": [], "hostData": []}}
    assert node.read("/service/join-policy") == {"nitro": {"measurements": [], "roots": {}}, "snp": nothing, **never}
    feeds = {"feed": {"svn": "22"}}
    firmware = {"boot_loader": 4, "tee": 0, "snp": 24, "microcode": 219}
    node.put(
        {
            tables.NITRO_MEASUREMENTS: {tables.measurement_key(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48): b'"Other"'},
            tables.NITRO_ROOTS: {b"ab": b"PEM"},
            tables.SNP_MEASUREMENTS: {b"cd": tables.ALLOWED_TO_JOIN},
            tables.SNP_HOST_DATA: {b"ef": b'"policy"'},
            tables.SNP_UVM_ENDORSEMENTS: {b"did:x509:1": tables.encode(feeds)},
            tables.SNP_TCB_VERSIONS: {b"00a00f11": tables.encode(firmware)},
        }
    )
    assert node.read("/service/join-policy") == {
        # whatever its value: admission looks at the keys, and nothing that may join must be hidden here
        "nitro": {"measurements": [{"PCR0": "01" * 48, "PCR1": "02" * 48, "PCR2": "03" * 48}], "roots": {"ab": "PEM"}},
        "snp": {
            "measurements": ["cd"],
            "hostData": {"ef": "policy"},
            "uvmEndorsements": {"did:x509:1": feeds},
            "tcbVersions": {"00a00f11": firmware},
        },
        **never,
    }


def test_tokens(node: Governed) -> None:
    assert node.read("/service/jwk") == {"issuers": {}, "keys": {}, "caCertBundles": {}}
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    node.put(
        {
            tables.JWT_ISSUERS: {
                b"https://a": tables.encode({"auto_refresh": True, "ca_cert_bundle_name": "bundle"}),
                b"https://b": tables.encode({"auto_refresh": False, "ca_cert_bundle_name": None}),
            },
            tables.JWT_KEYS: {
                b"kid": tables.encode(
                    [{"public_key": key, "issuer": "https://a", "constraint": "https://a/t"}, {"public_key": "?", "issuer": "https://b"}]
                )
            },
            tables.CA_CERT_BUNDLES: {b"bundle": tables.encode("PEM")},
        }
    )
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert node.read("/service/jwk") == {
        "issuers": {"https://a": {"autoRefresh": True, "caCertBundleName": "bundle"}, "https://b": {"autoRefresh": False}},
        "keys": {
            "kid": [
                {"publicKey": pem, "issuer": "https://a", "constraint": "https://a/t"},
                {"publicKey": "", "issuer": "https://b", "constraint": None},
            ]
        },
        "caCertBundles": {"bundle": "PEM"},
    }


# In a whole service.


def test_a_backup_tells_the_same_of_a_running_service() -> None:
    second = make_identity("member1")
    cluster = Cluster(app)
    member, user = cluster.member, cluster.user
    parties = [{"certificate": who.pem, "data": {"name": name}} for name, who in (("m0", member), ("m1", second))]
    n0, n1 = cluster.start(2, members=parties, constitution="// none\n")
    cluster.run(0.3)

    def read(host: Any, path: str) -> Any:
        answer = cluster.client(host).ask("GET", f"/gov/service/{path}{VERSION}")
        assert answer.status == 200
        return json.loads(answer.body)

    for path in ("info", "members", "users", "nodes", "join-policy", "jwk", "javascript-app"):
        assert read(n0, path) == read(n1, path), path
    info = read(n1, "info")
    assert (info["status"], info["certificate"]) == ("Open", n0.notices["service_certificate"])
    assert {each["memberId"]: each["memberData"] for each in read(n1, "members")["value"]} == {
        id_of(member): {"name": "m0"},
        id_of(second): {"name": "m1"},
    }
    assert read(n1, f"users/{id_of(user)}")["certificate"] == user.pem
    nodes = read(n1, "nodes")["value"]
    assert {each["nodeId"] for each in nodes} == {host.notices["node_id"] for host in (n0, n1)}
    assert all(each["certificate"].startswith("-----BEGIN CERTIFICATE-----") for each in nodes)
    policy = read(n1, "join-policy")["nitro"]
    assert policy["measurements"] == [{f"PCR{number}": PCRS[number].hex() for number in range(3)}]
    assert list(policy["roots"].values()) == [cluster.root.certificate_pem]
    committed = read(n1, "transactions/commit")
    assert committed["status"] == "Committed"
    assert read(n0, f"transactions/{committed['transactionId']}")["status"] == "Committed"
    answer = cluster.client(n1).ask("GET", f"/gov/service/constitution{VERSION}")
    assert (answer.body, answer.headers["content-type"]) == (b"// none\n", "text/javascript")
    assert "x-ms-ccf-transaction-id" in answer.headers


def test_gov_has_what_every_frontend_has_and_describes_itself() -> None:
    cluster = Cluster(app)
    (n0,) = cluster.start(1)
    client = cluster.client(n0)
    assert client.ask("GET", "/gov/commit").status == 200
    made = json.loads(client.ask("GET", "/gov/api").body)
    assert made["servers"] == [{"url": "/gov"}]
    paths = made["paths"]
    assert {"/members/proposals:create", "/service/members/{memberId}", "/members/state-digests/{memberId}:ack"} <= paths.keys()
    for path, item in paths.items():
        for method, operation in item.items():
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert ("api-version" in named) is (path not in ("/api", "/commit", "/tx", "/receipt", "/receipt/cose")), (method, path)
