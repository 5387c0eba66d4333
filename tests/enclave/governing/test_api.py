"""What every endpoint of `/gov` has in common: the version, who may ask, and that its description is what it does."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ledgerd.enclave import openapi
from ledgerd.enclave.endpoints import Endpoint
from ledgerd.governance import descriptions, requests, tables
from ledgerd.ledger import cose
from support.cluster import Identity, make_identity
from support.executing import error_of
from support.governed import ALICE, BOB, CAROL, VERSION, Governed, code, id_of, reason
from support.members import SIGNED_AT
from support.openapi import check_answer, check_openapi

PROPOSAL = "ab" * 32
STRANGER = make_identity("stranger")

READ = [
    "/members/proposals",
    f"/members/proposals/{PROPOSAL}",
    f"/members/proposals/{PROPOSAL}/actions",
    f"/members/proposals/{PROPOSAL}/ballots/{id_of(BOB)}",
    f"/members/state-digests/{id_of(ALICE)}",
    f"/recovery/encrypted-shares/{id_of(ALICE)}",
    "/service/constitution",
    "/service/info",
    "/service/javascript-app",
    "/service/javascript-modules",
    "/service/javascript-modules/%2Fmain.js",
    "/service/join-policy",
    "/service/jwk",
    "/service/members",
    f"/service/members/{id_of(ALICE)}",
    "/service/nodes",
    f"/service/nodes/{'cd' * 32}",
    "/service/transactions/2.1",
    "/service/transactions/commit",
    "/service/users",
    f"/service/users/{'ab' * 32}",
]
# path, kind, whether the member must be active
SIGNED = [
    (f"/members/proposals/{PROPOSAL}:withdraw", requests.WITHDRAWAL, True),
    (f"/members/proposals/{PROPOSAL}/ballots/{id_of(ALICE)}:submit", requests.BALLOT, True),
    (f"/members/state-digests/{id_of(ALICE)}:update", requests.STATE_DIGEST, False),
    (f"/members/state-digests/{id_of(ALICE)}:ack", requests.ACK, False),
    (f"/recovery/members/{id_of(ALICE)}:recover", requests.RECOVERY_SHARE, True),
]


@pytest.fixture
def node() -> Governed:
    return Governed()


def envelope(who: Identity, kind: str, payload: bytes = b"{}") -> bytes:
    return requests.sign(who.key, who.certificate, kind, payload, created_at=SIGNED_AT, proposal_id=PROPOSAL)


def test_every_endpoint_stands_in_one_of_the_two_lists(node: Governed) -> None:
    """So that what is shown here of all of them is shown of each of them."""
    reached = {node.gov.match("GET", f"/gov{path}")[0].label for path in READ}
    reached |= {node.gov.match("POST", f"/gov{path}")[0].label for path, _, _ in SIGNED}
    assert reached == {endpoint.label for endpoint in node.gov}


# The version.


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "MissingApiVersionParameter"),
        ("?api-version=2023-06-01", "UnsupportedApiVersionValue"),
        ("?api-version=latest", "UnsupportedApiVersionValue"),
        ("?api-version=", "UnsupportedApiVersionValue"),
        ("?API-VERSION=2024-07-01", "MissingApiVersionParameter"),
    ],
)
def test_the_version_is_demanded_everywhere(node: Governed, query: str, expected: str) -> None:
    for path in READ:
        refusal = node.get(path, query)
        assert code(refusal) == (400, expected)
        assert "2024-07-01" in error_of(refusal)["message"]
    for path, kind, _ in SIGNED:
        assert code(node.post(path, envelope(ALICE, kind), query)) == (400, expected)


def test_ccfs_preview_of_this_version_is_the_same(node: Governed) -> None:
    for path in READ:
        assert node.get(path, "?api-version=2023-06-01-preview") == node.get(path)
    for path, kind, _ in SIGNED:
        answer = node.post(path, envelope(ALICE, kind), "?api-version=2023-06-01-preview")
        assert answer.status < 300 or "Version" not in code(answer)[1]


# Who may ask.


@pytest.mark.parametrize(("path", "kind", "active"), SIGNED, ids=[kind for _, kind, _ in SIGNED])
def test_members_requests_are_refused_to_all_others_with_the_reason(node: Governed, path: str, kind: str, active: bool) -> None:
    good = envelope(ALICE, kind)
    forged = cose.encode(cose.decode(good)._replace(payload=b'{"ballot":"x"}'))
    taken = cose.decode(envelope(BOB, kind))
    header = {**cose.decode(good).protected}
    del header[cose.HEADER_ALGORITHM]
    by_another_key = cose.sign(BOB.key, header, b"{}")
    cases = [
        (b"", "parse"),
        (b"{}", "parse"),
        (good[1:], "parse"),  # without its tag
        (cose.encode(cose.decode(good)._replace(payload=None)), "detached"),
        (envelope(STRANGER, kind), "not a known member"),
        (forged, "verify"),
        (by_another_key, "verify"),
        (cose.encode(cose.decode(good)._replace(signature=taken.signature)), "verify"),
        *((envelope(ALICE, other), f"not as a {kind}") for other in requests.TYPES - {kind}),
    ]
    if active:
        cases.append((envelope(CAROL, kind), "not an active member"))
    before = node.store.version
    for body, why in cases:
        refusal = node.post(path, body)
        assert code(refusal) == (401, "InvalidAuthenticationInfo")
        assert why in reason(refusal)
        assert ("www-authenticate", 'COSE-SIGN1 realm="Signed request access"') in refusal.headers
    refusal = node.post(path, good, content_type="application/json")
    assert (code(refusal), "content type" in reason(refusal).lower()) == ((401, "InvalidAuthenticationInfo"), True)
    assert node.store.version == before, "what is refused leaves nothing"
    assert node.post(path, good).status != 401
    if not active:
        assert node.post(path, envelope(CAROL, kind)).status != 401


@pytest.mark.parametrize(("path", "kind", "active"), SIGNED, ids=[kind for _, kind, _ in SIGNED])
def test_a_member_that_was_removed_is_out_at_its_next_request(node: Governed, path: str, kind: str, active: bool) -> None:
    gone: dict[bytes, bytes | None] = {id_of(ALICE).encode(): None}
    node.put({tables.MEMBER_CERTS: gone, tables.MEMBER_INFO: gone})
    refusal = node.post(path, envelope(ALICE, kind))
    assert (refusal.status, reason(refusal)) == (401, "Signer is not a known member")


def test_a_backup_leaves_what_is_signed_to_the_primary(node: Governed) -> None:
    for path, _, _ in SIGNED:
        assert node.gov.match("POST", f"/gov{path}")[0].forwarding == "always"
    for path in READ:
        assert node.gov.match("GET", f"/gov{path}")[0].forwarding == "sometimes"


# Names in paths.


@pytest.mark.parametrize("name", ["ab", "g" * 64, "ab" * 33, "%20" * 64, "ab" * 31 + "a%00"])
def test_a_name_that_cannot_be_one_is_refused(node: Governed, name: str) -> None:
    for path in (
        f"/members/proposals/{name}",
        f"/members/proposals/{name}/actions",
        f"/members/proposals/{name}/ballots/{id_of(ALICE)}",
        f"/members/proposals/{PROPOSAL}/ballots/{name}",
        f"/members/state-digests/{name}",
        f"/recovery/encrypted-shares/{name}",
        f"/service/members/{name}",
        f"/service/users/{name}",
        f"/service/nodes/{name}",
    ):
        assert code(node.get(path)) == (400, "InvalidResourceName"), path
    for path, kind in (
        (f"/members/proposals/{name}:withdraw", requests.WITHDRAWAL),
        (f"/members/proposals/{name}/ballots/{id_of(ALICE)}:submit", requests.BALLOT),
        (f"/members/proposals/{PROPOSAL}/ballots/{name}:submit", requests.BALLOT),
        (f"/members/state-digests/{name}:update", requests.STATE_DIGEST),
        (f"/members/state-digests/{name}:ack", requests.ACK),
    ):
        assert code(node.post(path, envelope(ALICE, kind))) == (400, "InvalidResourceName"), path


# Descriptions.


@pytest.fixture
def document(node: Governed) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(openapi.document(node.gov, "governance", "1")))
    return made


def operations(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in made["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_the_document_keeps_the_rules_of_openapi(document: dict[str, Any]) -> None:
    check_openapi(document)
    for path, method, operation in operations(document):
        parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
        assert parameters["api-version"]["required"]
        assert parameters["api-version"]["schema"]["enum"] == ["2023-06-01-preview", "2024-07-01"]
        assert "400" in operation["responses"]
        assert ("401" in operation["responses"]) is (method == "post")
        assert ("requestBody" in operation) is (method == "post")
        assert ("security" in operation) is (method == "post")
        for name in re.findall(r"\{(\w+Id)\}", path):
            assert name == "transactionId" or parameters[name]["schema"]["pattern"]


def test_what_is_answered_is_what_the_document_says(node: Governed, document: dict[str, Any]) -> None:
    """Of every endpoint: an answer without anything in the tables, one with the tables full, and one to a request that lacks all."""

    def operation_of(endpoint: Endpoint) -> Any:
        return document["paths"][endpoint.template][endpoint.method.lower()]

    seen = set()
    for fill in (False, True):
        if fill:
            node.put(full_tables())
        for query in ("", VERSION):
            for path in READ:
                endpoint = node.gov.match("GET", f"/gov{path}")[0]
                answer = node.get(path, query)
                assert str(answer.status) in operation_of(endpoint)["responses"], (path, answer)
                check_answer(document, descriptions, operation_of(endpoint), answer.status, answer.content_type, answer.body)
                seen.add((endpoint.label, answer.status))
            for path, kind, _ in SIGNED:
                endpoint = node.gov.match("POST", f"/gov{path}")[0]
                answer = node.post(path, envelope(ALICE, kind), query)
                assert str(answer.status) in operation_of(endpoint)["responses"], (path, answer)
                check_answer(document, descriptions, operation_of(endpoint), answer.status, answer.content_type, answer.body)
    assert {label for label, status in seen if status == 200} == {e.label for e in node.gov if e.method == "GET"} - NEVER_200


NEVER_200 = {"GET /gov/recovery/encrypted-shares/{memberId}"}


def full_tables() -> dict[str, Any]:
    """A row in every table that is shown."""
    info = {"proposer_id": id_of(ALICE), "state": "Open", "ballots": {id_of(BOB): "export function vote() { return true; }"}}
    node = {
        "status": "Trusted",
        "retired_committed": False,
        "quote_info": {"format": "AWS_Nitro_v1", "quote": "AAAA", "endorsements": ""},
        "rpc_interfaces": {"primary": {"published_address": "n0:8000"}},
    }
    service = {"cert": "PEM", "status": "Open", "recovery_count": 0, "current_service_create_txid": "2.1"}
    endpoint = {"js_module": "main.js", "js_function": "run", "authn_policies": [], "mode": "readonly"}
    issuer = {"auto_refresh": True, "ca_cert_bundle_name": "b"}
    return {
        tables.PROPOSALS: {PROPOSAL.encode(): b'{"actions":[]}'},
        tables.PROPOSALS_INFO: {PROPOSAL.encode(): tables.encode(info)},
        tables.MEMBER_ACKS: {id_of(ALICE).encode(): tables.encode({"state_digest": "00" * 32})},
        tables.CONSTITUTION: {tables.SINGLETON: b'"export function validate() {}"'},
        tables.SERVICE_INFO: {tables.SINGLETON: tables.encode(service)},
        tables.SERVICE_CONFIG: {tables.SINGLETON: b'{"recovery_threshold":1}'},
        tables.MODULES: {b"/main.js": b"export function run() {}"},
        tables.ENDPOINTS: {b"GET /run": tables.encode(endpoint)},
        tables.NODE_INFO: {b"cd" * 32: tables.encode(node)},
        tables.NITRO_MEASUREMENTS: {tables.measurement_key(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48): tables.ALLOWED_TO_JOIN},
        tables.JWT_ISSUERS: {b"https://issuer": tables.encode(issuer)},
        tables.JWT_KEYS: {b"kid": tables.encode([{"issuer": "https://issuer", "public_key": "AAAA"}])},
        tables.CA_CERT_BUNDLES: {b"b": b'"PEM"'},
    }
