"""The logging application in JavaScript, as its users meet it: the same as in Python, and two things more."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.javascript import applications, options
from ledgerd.enclave.javascript.declared import read_declared
from ledgerd.enclave.scripts import jobs
from ledgerd.enclave.scripts.jobs import Limits
from ledgerd.node.cli.gov_bundle import read_bundle
from support.cluster import Cluster
from support.executing import STRANGER, error_of
from support.javascript import Installed, rows
from support.members import propose

BUNDLE = read_bundle(Path(__file__).parents[2] / "apps" / "logging_js")
BOTH = pytest.mark.parametrize("path", ["/app/records", "/public/records"])


@pytest.fixture
def service() -> Installed:
    made = Installed()
    endpoints = {
        f"{method.upper()} {path}": {**properties, "js_module": f"/{properties['js_module']}"}
        for path, methods in BUNDLE["metadata"]["endpoints"].items()
        for method, properties in methods.items()
        if properties["mode"] != "historical"
    }
    made.put(rows(endpoints, {f"/{module['name']}": module["module"] for module in BUNDLE["modules"]}))
    assert made.logs == []
    return made


@BOTH
@pytest.mark.parametrize("message", ["a message", "", "ä\n\x00", "x" * 10_000])
@pytest.mark.parametrize(("key", "segment"), [("a", "a"), ("a b/ä:c", "a%20b%2F%C3%A4:c")])
def test_a_message_is_written_read_and_removed(service: Installed, path: str, message: str, key: str, segment: str) -> None:
    target = f"{path}/{segment}"
    assert service.answer("PUT", target, message).status == 204
    read = service.answer("GET", target)
    assert (read.status, read.body.decode(), read.content_type) == (200, message, "text/plain")
    assert service.answer("DELETE", target).status == 204
    for method in ("GET", "DELETE"):
        response = service.answer(method, target)
        assert (response.status, error_of(response)) == (404, {"code": "ResourceNotFound", "message": f"There is no record {key}."})


@BOTH
@pytest.mark.parametrize("segment", ["%FF", "%", "a%2"])
def test_a_key_that_is_no_text_is_refused_as_in_python(service: Installed, path: str, segment: str) -> None:
    for method in ("PUT", "GET", "DELETE"):
        response = service.answer(method, f"{path}/{segment}")
        assert (response.status, error_of(response)["code"]) == (400, "InvalidResourceName")


def test_private_and_public_messages_are_apart_and_public_ones_are_claimed(service: Installed) -> None:
    private, public = service.ask("PUT", "/app/records/k", "private"), service.ask("PUT", "/app/public/records/k", "public")
    assert (private.writes, private.claims_digest) == ({"records": {b"k": b"private"}}, bytes(32))
    assert (public.writes, public.claims_digest) == ({"public:records": {b"k": b"public"}}, sha256(b"public").digest())


def test_only_users_write_and_anybody_reads_what_is_public(service: Installed) -> None:
    service.answer("PUT", "/app/public/records/k", "v")
    for caller in ("", STRANGER):
        assert service.answer("PUT", "/app/public/records/k", "w", caller=caller).status == 401
        assert service.answer("GET", "/app/records/k", caller=caller).status == 401
        assert service.answer("GET", "/app/public/records/k", caller=caller).body == b"v"


def test_what_was_public_then_has_a_receipt() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    answer = propose(cluster, cluster.hosts["n0"], ("set_js_app", {"bundle": BUNDLE}))
    assert json.loads(answer.body)["proposalState"] == "Accepted", answer.body
    client = cluster.client(cluster.hosts["n0"], cluster.user)
    ids = [client.ask("PUT", "/app/public/records/k", body, prefer="committed").headers["x-ms-ccf-transaction-id"] for body in (b"1", b"2")]
    cluster.run(0.3)
    for transaction, body in zip(ids, ("1", "2"), strict=True):
        shown: Any = json.loads(client.ask("GET", "/app/public/records/k/then", x_ms_ccf_transaction_id=transaction).body)
        assert (shown["transactionId"], shown["message"]) == (transaction, body)
        assert shown["receipt"]["leaf_components"]["claims_digest"] == sha256(body.encode()).hexdigest()


def test_the_guide_shows_a_bundle_that_can_be_served_and_names_the_limits_there_are() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "javascript-apps.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", guide, re.DOTALL)
    ((path, methods),) = json.loads(shown)["endpoints"].items()
    declared = read_declared(f"PUT {path}".encode(), json.dumps(methods["put"]).encode())
    assert (declared.broken, [policy.name for policy in declared.policies]) == ("", ["user_cert", "any_cert+jwt"])
    limits = Limits()
    for name, default, most in (
        ("max_heap_bytes", f"{limits.heap_bytes >> 20} MiB", f"{options.HEAP_BYTES_MAX >> 20} MiB"),
        ("max_stack_bytes", f"{limits.stack_bytes >> 20} MiB", f"{options.STACK_BYTES_MAX >> 20} MiB"),
        ("max_execution_time_ms", f"{limits.deadline_ms:,}", f"{options.EXECUTION_MS_MAX:,}"),
        ("max_cached_interpreters", f"{limits.interpreters}", f"{options.INTERPRETERS_MAX}"),
    ):
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|(.*)\|$", guide, re.MULTILINE)
        assert row[0].strip().startswith(default), row
        assert row[1].strip() == most
    fixed = f"{jobs.SOURCES_BYTES_MAX >> 20} MiB of modules, {jobs.MODULES_MAX:,} modules and {applications.ENDPOINTS_MAX:,} endpoints"
    assert fixed in guide
    assert f"{limits.output_bytes >> 20} MiB of output, {limits.writes_bytes >> 20} MiB of writes, {jobs.MAPS_MAX} maps" in guide
    assert f"{limits.operations:,} operations" in guide
