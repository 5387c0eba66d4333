"""The application of docs/examples/typescript: checked, bundled with CCF's own package, installed by proposal, and asked on both nodes.

Not here: what CCF's package promises beyond what this application needs (`test_ccfs_package.py`); the guide's commands as they are printed
(`tests/architecture/test_guides.py`).
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ledgerd.enclave.outbound import Answer
from ledgerd.ledger import cose, receipt
from ledgerd.ledger.ids import parse_entry_id
from ledgerd.node.cli.gov_bundle import read_bundle
from support import typescript
from support.cluster import make_identity
from support.governed import id_of
from support.jwt import ISSUER
from support.two_nodes import BEARER, TwoNodes

ID = "x-ms-ccf-transaction-id"
NODES = ("n0", "n1")
ON_BOTH = pytest.mark.parametrize("node", NODES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The application, built by its own `build`: the compiler has nothing to say against it."""
    folder = tmp_path_factory.mktemp("typescript") / "documents"
    typescript.copy_example(folder)
    typescript.link_packages(folder)
    typescript.run(folder, "npm", "run", "build")
    return read_bundle(folder / "dist")


class Installed(TwoNodes):
    """A service with the application and two users."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        super().__init__()
        self.other = make_identity("other")
        self.decide(("set_user", {"cert": self.other.pem, "user_data": {"name": "other"}}), ("set_js_app", {"bundle": bundle}))


@pytest.fixture(scope="module")
def service(bundle: dict[str, Any]) -> Installed:
    return Installed(bundle)


def error(answer: Answer) -> tuple[int, str]:
    """Status and code of a refusal, which says why."""
    found = json.loads(answer.body)["error"]
    assert found["message"]
    return answer.status, found["code"]


def digest_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def test_the_lock_names_digests_and_no_host() -> None:
    packages = typescript.read_lock()
    assert packages.pop("")["dependencies"] == {"@microsoft/ccf-app": "6.0.1"}
    assert len(packages) > 3
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
        assert not package.get("hasInstallScript") or name == "node_modules/esbuild", name  # none is run: see .npmrc


def test_the_compiler_finds_what_is_wrong(tmp_path: Path) -> None:
    """A build that would take anything shows nothing."""
    folder = tmp_path / "documents"
    typescript.copy_example(folder)
    typescript.link_packages(folder)
    source = folder / "src" / "documents.ts"
    source.write_text(source.read_text() + 'totals.set("registered", 1);\n')
    with pytest.raises(AssertionError, match="not assignable to parameter of type 'bigint'"):
        typescript.run(folder, "npm", "run", "build")
    assert not (folder / "dist").exists()


EVERY = {  # what each says to a user about a document that there is not, without a body
    "GET /documents": 200,
    "PUT /documents/{name}": 400,
    "GET /documents/{name}": 404,
    "DELETE /documents/{name}": 404,
    "GET /documents/{name}/status": 404,
    "GET /documents/{name}/historical": 400,
    "GET /documents/{name}/history": 400,
    "PUT /documents/{name}/code": 404,
    "PUT /documents/{name}/owner": 404,
    "POST /documents/{name}/seal": 404,
    "POST /seals": 400,
    "GET /whoami": 200,
    "POST /whoami": 401,
    "GET /whoami/nobody": 200,
}


@ON_BOTH
def test_every_endpoint_is_there(service: Installed, bundle: dict[str, Any], node: str) -> None:
    endpoints = bundle["metadata"]["endpoints"]
    assert {f"{verb.upper()} {path}" for path, item in endpoints.items() for verb in item} == set(EVERY)
    for name, status in EVERY.items():
        method, _, path = name.partition(" ")
        assert service.ask(method, path.replace("{name}", "never"), node=node).status == status, name


@ON_BOTH
def test_documents_are_registered_read_changed_listed_and_removed(service: Installed, node: str) -> None:
    path = f"/documents/{node}%2F%C3%BC%26"
    name = f"{node}/ü&"
    before = json.loads(service.ask("GET", "/documents").body)
    made = service.commit("PUT", path, {"text": "Zürich 𝄞"}, node=node, status=201)
    assert json.loads(made.body) == {"sha256": digest_of("Zürich 𝄞")}
    service.commit("PUT", path, {"text": ""}, node=node)
    owner = f"user {id_of(service.user)}"
    for each in NODES:
        read = service.ask("GET", path, node=each, who=service.other)
        assert (read.status, read.headers["content-type"]) == (200, "application/json")
        assert json.loads(read.body) == {"owner": owner, "sha256": digest_of(""), "text": ""}
        listed = json.loads(service.ask("GET", "/documents", node=each).body)
        assert name in listed["names"]
        assert listed["stored"] == before["stored"] + 1
        assert int(listed["registered"]) == int(before["registered"]) + 2
        assert name in json.loads(service.ask("GET", f"/documents?limit=50&owner={owner.replace(' ', '%20')}", node=each).body)["names"]
        assert json.loads(service.ask("GET", "/documents?owner=nobody", node=each).body)["names"] == []
        assert json.loads(service.ask("GET", "/documents?limit=0", node=each).body)["names"] == []
    service.commit("DELETE", path, node=node, status=204)
    for each in NODES:
        assert error(service.ask("GET", path, node=each)) == (404, "ResourceNotFound")
        assert error(service.ask("DELETE", path, node=each)) == (404, "ResourceNotFound")


@ON_BOTH
def test_what_is_wrong_is_refused_as_the_application_says(service: Installed, node: str) -> None:
    path = f"/documents/wrong-{node}"
    for body in (b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"text": 1}', b"\xff"):
        assert error(service.ask("PUT", path, body, node=node)) == (400, "InvalidInput"), body
    assert error(service.ask("PUT", f"/documents/{'n' * 101}", {"text": ""}, node=node)) == (400, "InvalidResourceName")
    assert error(service.ask("GET", "/documents/%FF", node=node)) == (400, "InvalidResourceName")
    assert error(service.ask("GET", "/documents?limit=-1", node=node)) == (400, "InvalidQueryParameterValue")
    assert error(service.ask("GET", path, node=node)) == (404, "ResourceNotFound")
    service.commit("PUT", path, {"text": "mine"}, node=node, status=201)
    for method, target, given in (("PUT", path, {"text": "theirs"}), ("DELETE", path, {}), ("PUT", f"{path}/code", {"code": "12345678"})):
        refused = service.ask(method, target, given, node=node, who=service.other)
        assert error(refused) == (403, "AuthorizationFailed")
    stranger = make_identity("stranger")
    assert service.ask("GET", path, node=node, who=stranger).status == 401
    assert service.ask("PUT", path, {"text": "theirs"}, node=node, who=stranger).status == 401
    assert service.ask("GET", path, node=node, authorization="Bearer x.y.z").status == 401
    assert json.loads(service.ask("GET", path, node=node).body)["text"] == "mine"


@ON_BOTH
def test_the_past_is_read_with_receipts_that_prove_the_text(service: Installed, node: str) -> None:
    path = f"/documents/past-{node}"
    texts = [f"first {node}", "second", "third"]
    ids = [service.commit("PUT", path, {"text": text}, status=200 if number else 201).headers[ID] for number, text in enumerate(texts)]
    service.commit("DELETE", path, status=204)
    certificate = service.cluster.hosts["n0"].notices["service_certificate"]
    for text, transaction in zip(texts, ids, strict=True):
        answer = service.ask("GET", f"{path}/historical", node=node, x_ms_ccf_transaction_id=transaction)
        shown = json.loads(answer.body)
        assert (answer.status, shown["document"]["text"], shown["transactionId"]) == (200, text, transaction)
        claims = sha256(text.encode()).digest()
        receipt.verify_json(shown["receipt"], certificate, expected=parse_entry_id(transaction), claims_digest=claims)
    assert service.ask("GET", f"{path}/historical", node=node).status == 400  # which transaction?
    other = service.ask("GET", f"/documents/other-{node}/historical", node=node, x_ms_ccf_transaction_id=ids[0])
    assert error(other) == (404, "ResourceNotFound")
    first, last = (int(ids[place].partition(".")[2]) for place in (0, -1))
    history = service.read_whole(f"{path}/history?from={first}&to={last}", node)["texts"]
    assert history == [{"transaction": transaction, "text": text} for transaction, text in zip(ids, texts, strict=True)]
    assert error(service.ask("GET", f"{path}/history?from={first}", node=node)) == (400, "InvalidInput")
    assert error(service.ask("GET", f"{path}/history?from=x&to=1", node=node)) == (400, "InvalidQueryParameterValue")


@ON_BOTH
def test_the_last_write_and_what_became_of_it(service: Installed, node: str) -> None:
    path = f"/documents/status-{node}"
    assert error(service.ask("GET", f"{path}/status", node=node)) == (404, "ResourceNotFound")
    transaction = service.commit("PUT", path, {"text": "t"}, status=201).headers[ID]
    shown = json.loads(service.ask("GET", f"{path}/status", node=node).body)
    assert (shown["transaction"], shown["status"]) == (transaction, "Committed")
    written, committed = parse_entry_id(transaction), parse_entry_id(shown["committed"])
    assert committed.seqno >= written.seqno


@ON_BOTH
def test_wrong_codes_are_counted_although_they_are_refused(service: Installed, node: str) -> None:
    path = f"/documents/code-{node}"
    service.commit("PUT", path, {"text": "t"}, status=201)
    assert error(service.ask("PUT", f"{path}/owner", {"code": "12345678"}, node=node)) == (409, "NotOffered")
    assert error(service.ask("PUT", f"{path}/code", {"code": "short"}, node=node)) == (400, "InvalidInput")
    service.commit("PUT", f"{path}/code", {"code": "right code"}, node=node, status=204)

    def take(code: object) -> Answer:
        return service.ask("PUT", f"{path}/owner", {"code": code}, node=node, who=service.other, prefer="committed")

    for left, code in ((2, "wrong code"), (1, 7), (0, "")):
        refused = take(code)
        assert error(refused) == (403, "WrongCode")
        assert f" {left} attempts" in json.loads(refused.body)["error"]["message"]
    assert error(take("right code")) == (403, "Locked")
    service.commit("PUT", f"{path}/code", {"code": "another code"}, node=node, status=204)
    assert error(take("right code")) == (403, "WrongCode")
    assert json.loads(take("another code").body) == {"owner": f"user {id_of(service.other)}"}
    service.cluster.run(0.3)
    assert error(service.ask("DELETE", path, node=node)) == (403, "AuthorizationFailed")
    service.commit("DELETE", path, node=node, who=service.other, status=204)


@ON_BOTH
def test_the_register_signs_and_recognises_its_signature(service: Installed, node: str) -> None:
    path = f"/documents/seal-{node}"
    service.commit("PUT", path, {"text": "sealed"}, status=201)
    made = json.loads(service.commit("POST", f"{path}/seal", node=node).body)
    again = json.loads(service.commit("POST", f"{path}/seal", node="n0").body)
    assert made["publicKey"] == again["publicKey"]
    public = load_pem_public_key(made["publicKey"].encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    raw = bytes.fromhex(made["signature"])
    assert len(raw) == 64
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    public.verify(signature, made["sha256"].encode(), ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"else", ec.ECDSA(SHA256()))
    nobody = service.cluster.client(service.cluster.hosts[node])
    for sha, given, valid in (
        (made["sha256"], made["signature"], True),
        (digest_of("else"), made["signature"], False),
        (made["sha256"], "00", False),
    ):
        answer = nobody.ask("POST", "/app/seals", json.dumps({"sha256": sha, "signature": given}).encode(), content_type="application/json")
        assert (answer.status, json.loads(answer.body)) == (200, {"valid": valid})
    assert error(service.ask("POST", "/seals", {"sha256": "", "signature": "xy"}, node=node)) == (400, "InvalidInput")
    assert error(service.ask("POST", f"/documents/none-{node}/seal", node=node)) == (404, "ResourceNotFound")


@ON_BOTH
def test_each_kind_of_caller_is_told_apart(service: Installed, node: str) -> None:
    def who(method: str = "GET", path: str = "/whoami", **more: Any) -> str:
        answer = service.ask(method, path, node=node, **more)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain"), answer
        return answer.body.decode()

    stranger = make_identity("stranger")
    other = f"user {id_of(service.other)}, of whom members say " + '{"name":"other"}'
    bearer = f"bearer alice of {ISSUER}"
    assert who(who=service.other) == other
    assert who(authorization=BEARER) == bearer
    assert who(authorization=BEARER, who=service.other) == f"jwt and user_cert: {other}; {bearer}"  # in the order of their names, as in CCF
    assert who(who=service.cluster.member) == f"member {id_of(service.cluster.member)}"
    assert who(who=stranger) == f"somebody with a certificate of {len(stranger.pem)} characters"
    nobody = service.cluster.client(service.cluster.hosts[node])
    assert nobody.ask("GET", "/app/whoami").body == b"anybody"
    assert nobody.ask("GET", "/app/whoami/nobody").body == b"nobody was asked"
    signed = cose.sign(service.user.key, {cose.HEADER_KEY_ID: id_of(service.user).encode()}, b"my word")
    assert who("POST", body=signed, kind="application/cose", who=stranger) == f"signer {id_of(service.user)} of 7 bytes"
    assert service.ask("POST", "/whoami", b"my word", node=node).status == 401


def test_a_document_of_a_bearer_is_not_a_users(service: Installed) -> None:
    path = "/documents/bearers"
    service.commit("PUT", path, {"text": "t"}, status=201, authorization=BEARER)
    assert json.loads(service.ask("GET", path).body)["owner"] == f"bearer alice of {ISSUER}"
    assert error(service.ask("DELETE", path)) == (403, "AuthorizationFailed")
    service.commit("DELETE", path, node="n1", status=204, authorization=BEARER)
