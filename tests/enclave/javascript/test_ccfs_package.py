"""CCF's package for applications, `@microsoft/ccf-app`: every function of every module, on a node.

The package has a stand-in for `ccf` of its own, for unit tests in Node.js. One bundle runs with that and on a node, and must see the same.
What the stand-in lacks is held to the package's declarations.
"""

import json
import shutil
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384, sha512
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from ledgerd.apps.logging import app
from ledgerd.ledger import receipt
from ledgerd.ledger.ids import parse_entry_id
from support import typescript
from support.cluster import Cluster
from support.javascript import bundle
from support.members import propose

SOURCE = Path(__file__).parents[2] / "support" / "samples" / "package.ts"
IN_NODE_JS = """
import "@microsoft/ccf-app/polyfill.js";
import { readFileSync } from "node:fs";
console.error = () => {};  // the stand-in tells there of each certificate that it does not like
const { pure } = await import("./dist/package.js");
console.log(JSON.stringify(pure(JSON.parse(readFileSync("given.json", "utf8")))));
"""
ESBUILD = ("node_modules/.bin/esbuild", "src/package.ts", "--bundle", "--format=esm", "--target=es2022", "--outdir=dist")
DATA = "what is signed, ü𝄞".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module is checked, as strictly as the example, and bundled."""
    made = tmp_path_factory.mktemp("package") / "package"
    typescript.copy_example(made)
    typescript.link_packages(made)
    shutil.rmtree(made / "src")
    (made / "src").mkdir()
    shutil.copy(SOURCE, made / "src")
    typescript.run(made, "npm", "run", "check")
    typescript.run(made, *ESBUILD)
    return made


def pair(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> dict[str, str]:
    return {
        "private": private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "public": private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    }


def authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, certify(name, private, name, private, is_authority=True)


def certify(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9000))
        .not_valid_after(now + timedelta(days=9000))
    )
    return builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True).sign(signer, hashes.SHA256())


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    root_key, root = authority("root")
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = certify("leaf", leaf_key, "root", root_key, is_authority=False)
    _, stranger = authority("stranger")
    certificates = {
        name: each.public_bytes(Encoding.PEM).decode() for name, each in (("root", root), ("leaf", leaf), ("stranger", stranger))
    }
    keys = {
        "rsa": pair(rsa.generate_private_key(65537, 2048)),
        "ec": pair(leaf_key),
        "ed": pair(ed25519.Ed25519PrivateKey.generate()),
    }
    return {"keys": keys, "certificates": certificates}


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Cluster:
    made = Cluster(app)
    made.start(2)
    made.run(0.3)
    endpoints = {
        "POST /pure": {"js_function": "askPure", "js_module": "package.js"},
        "POST /live": {"js_function": "askLive", "js_module": "package.js"},
    }
    installed = bundle(endpoints, {"package.js": (folder / "dist" / "package.js").read_text()})
    options = {"max_heap_bytes": 100 << 20, "max_stack_bytes": 1 << 20, "max_execution_time_ms": 10_000, "return_exception_details": True}
    answer = propose(made, made.hosts["n0"], ("set_js_app", {"bundle": installed}), ("set_js_runtime_options", options))
    assert json.loads(answer.body)["proposalState"] == "Accepted", answer
    made.run(0.5)
    return made


def test_a_node_gives_what_the_package_s_own_stand_in_gives(folder: Path, given: dict[str, Any], cluster: Cluster) -> None:
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "in_node.mjs").write_text(IN_NODE_JS)
    expected = json.loads(typescript.run(folder, "node", "in_node.mjs"))
    answer = cluster.client(cluster.hosts["n0"]).ask("POST", "/app/pure", json.dumps(given).encode(), content_type="application/json")
    assert answer.status == 200, answer
    found = json.loads(answer.body)
    for part, all_expected in expected.items():
        assert set(found[part]) == set(all_expected), part
        for name, one in all_expected.items():
            assert found[part][name] == one, f"{part}, {name}"
    assert len(expected["there"]) > 70
    assert expected["computed"]["chains"] == [True, True, False, False]
    assert expected["computed"]["digest"] == sha256(DATA).hexdigest()


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_what_needs_a_ledger_is_as_the_package_declares_it(given: dict[str, Any], cluster: Cluster, node: str) -> None:
    client = cluster.client(cluster.hosts[node])
    body = json.dumps(given).encode()
    first = client.ask("POST", "/app/live", body, content_type="application/json", prefer="committed")
    cluster.run(0.3)
    second = client.ask("POST", "/app/live", body, content_type="application/json", prefer="committed")
    for answer in (first, second):
        assert (answer.status, answer.headers["x-mine"]) == (418, "yes"), answer
    shown = json.loads(second.body)
    written = parse_entry_id(first.headers["x-ms-ccf-transaction-id"])
    assert shown.pop("before") == written.seqno  # it was written although the answer is no success
    view, seqno = shown.pop("committed")
    assert seqno >= written.seqno
    assert shown.pop("view") == view
    assert shown == {
        "never": True,
        "value": str(2**60),
        "setVersion": True,
        "status": "Committed",
        "unknown": "Unknown",
        "viewOfNothing": None,
        "historicalState": True,
        "dropped": shown["dropped"],
        "range": None,
        "hashes": [each(DATA).hexdigest() for each in (sha256, sha384, sha512)],
        "hmac": True,
        "wrapped": True,
        "oaep": True,
        "otherLabel": "throws Error",
        "dates": "boolean",
        "metrics": "boolean",
        "evidence": "throws RangeError",
        "mark": "\ufefftext",
    }
    assert isinstance(shown["dropped"], bool)
    cluster.run(0.5)
    got = client.ask("GET", f"/app/receipt?transaction_id={first.headers['x-ms-ccf-transaction-id']}")
    receipt.verify_json(
        json.loads(got.body),
        cluster.hosts["n0"].notices["service_certificate"],
        expected=written,
        claims_digest=sha256(b"claimed").digest(),
    )
