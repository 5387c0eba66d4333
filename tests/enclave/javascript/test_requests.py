"""The object that an endpoint is given: every field as CCF has it, for every policy."""

import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.auth import NOBODY
from ledgerd.enclave.endpoints import Context, Maps
from ledgerd.enclave.javascript.requests import decoded_query, request_text
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request
from ledgerd.enclave.scripts.overlay import OverlayTransaction
from ledgerd.governance import requests, tables
from ledgerd.ledger import cose
from support.cluster import make_identity
from support.executing import CERTIFICATE, MEMBER, STRANGER, USER
from support.governed import member_rows
from support.javascript import Installed, rows

SHOW = """
const seen = {...request, body: request.body.text()};
for (const one of [seen.caller, ...Object.values(seen.caller ?? {})])
  if (one?.cose) one.cose = {...one.cose, content: ccf.bufToStr(one.cose.content), buffer: one.cose.content instanceof ArrayBuffer};
return {body: seen};
"""


def seen(service: Installed, target: str = "/app/x", body: bytes = b"", method: str = "POST", **more: Any) -> Any:
    response = service.answer(method, target, body, **more)
    assert response.status == 200, response
    return json.loads(response.body)


def with_policies(*policies: Any) -> Installed:
    service = Installed()
    service.install(SHOW, authn_policies=list(policies))
    return service


def test_the_request_as_ccf_tells_it_parameters_as_they_were_sent_and_the_query_decoded() -> None:
    service = Installed()
    service.put(rows({"POST /a/{one}/b/{two-2}": {}}, {"/app.js": f"export function main(request) {{ {SHOW} }}"}))
    headers = {"host": "example.org:1", "x-y": "z, w"}
    assert seen(service, "/app/a/b%20c/b/%7E?q=%20&r", b"\xc3\xa4", headers=headers) == {
        "headers": headers,
        "params": {"one": "b%20c", "two-2": "%7E"},
        "query": "q= &r",
        "path": "/app/a/b%20c/b/%7E",
        "url": "/app/a/b%20c/b/%7E?q= &r",
        "route": "/app/a/{one}/b/{two-2}",
        "method": "POST",
        "hostname": "example.org:1",
        "caller": {"policy": "no_auth"},
        "body": "ä",
    }


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("a=b+c", "a=b c"),
        ("a=b%26c&d", "a=b&c&d"),
        ("a=%2B", "a=+"),
        ("%zz%4", "%zz%4"),
        ("%C3%A4", "ä"),
        ("%FF", "\ufffd"),
        ("a=%2526", "a=%26"),
    ],
)
def test_a_query_is_decoded_once_and_as_a_whole(sent: str, told: str) -> None:
    found = seen(with_policies("no_auth"), f"/x?{sent}")
    assert (found["query"], found["url"]) == (told, f"/x?{told}")


@pytest.mark.parametrize("value", ["%zz", "%FF", "%2F", "a+b", "%C3%A4"])
def test_a_parameter_is_the_scripts_to_decode_whatever_was_sent(value: str) -> None:
    service = Installed()
    two = rows({"POST /a/{one}": {}, "POST /b/{one}/c": {}}, {"/app.js": f"export function main(request) {{ {SHOW} }}"})
    service.put(two)
    assert seen(service, f"/app/a/{value}")["params"] == seen(service, f"/app/b/{value}/c")["params"] == {"one": value}


def test_a_body_that_a_module_has_kept_reads_the_present_request() -> None:
    service = Installed()
    source = """let kept; export function main(request) {
      kept ??= request.body;
      return {body: [kept.text(), kept.json(), kept.arrayBuffer().byteLength]};
    }"""
    service.install(source, interpreter_reuse={"key": "k"})
    for sent in (b"1", b"22", b"333"):
        assert json.loads(service.answer("POST", "/app/x", sent).body) == [sent.decode(), int(sent), len(sent)]


def test_without_host_query_and_prefix() -> None:
    found = seen(with_policies("no_auth"), "/x")
    assert (found["hostname"], found["query"], found["url"], found["path"], found["route"]) == (None, "", "/x", "/x", "/app/x")


ODD = 'a "quoted\\" w\u00f6rd \u00ff </script> \u007f'


def test_texts_are_told_as_they_are_whatever_stands_in_them() -> None:
    service = with_policies("no_auth")
    headers = {"host": ODD, 'x-"': ODD, "x-more": ODD, "__proto__": "x"}
    found = seen(service, f"/x?{ODD}?{ODD}", headers=headers)
    assert (found["headers"], found["hostname"]) == (headers, ODD)
    assert found["query"] == f"{ODD}?{ODD}"
    template = Installed()
    template.put(rows({"POST /a/{one}": {}}, {"/app.js": f"export function main(request) {{ {SHOW} }}"}))
    odd = ODD.replace("/", "")
    assert seen(template, f"/app/a/{odd}")["params"] == {"one": odd}


@pytest.mark.parametrize(
    "text", ["".join(map(chr, range(256))), "\u2028\u2029\ufeff\U0001f600", "\ud800", "\udc00\ud800", "__proto__", "", '\\"', "\\u0022"]
)
def test_what_is_written_piece_by_piece_is_what_the_encoder_would_have_written(text: str) -> None:
    headers = {"host": text, text: text}
    request = Request(None, text, f"/{text}", text, headers, b"", None, "")
    transaction = OverlayTransaction(Store())
    context = Context(request, {text: text}, NOBODY, Maps(transaction), transaction)
    query = decoded_query(text)
    whole = {
        "headers": headers,
        "params": {text: text},
        "query": query,
        "path": f"/{text}",
        "url": f"/{text}?{query}" if query else f"/{text}",
        "route": text,
        "method": text,
        "hostname": text,
        "caller": {"policy": "no_auth"},
    }
    assert request_text(context, json.dumps(text)) == json.dumps(whole, separators=(",", ":")).encode()


@pytest.mark.parametrize("count", [1, 200])
@pytest.mark.parametrize("length", [10, 5_000])
def test_headers_are_those_of_this_request_however_much_they_are_like_those_of_another(count: int, length: int) -> None:
    service = with_policies("no_auth")
    for last in ("1", "2", "1"):
        headers = {f"x-{number}": "v" * length for number in range(count)} | {"x-last": last}
        assert seen(service, "/x", headers=headers)["headers"] == headers


def test_without_policies_there_is_no_caller() -> None:
    assert seen(with_policies())["caller"] is None


@pytest.mark.parametrize(("policy", "caller", "data"), [("user_cert", USER, {"role": "clerk"}), ("member_cert", MEMBER, None)])
def test_users_and_members_have_an_id_data_and_the_certificate_that_is_registered(policy: str, caller: str, data: Any) -> None:
    assert seen(with_policies(policy), caller=caller)["caller"] == {"policy": policy, "id": caller, "data": data, "cert": "PEM"}


def test_any_certificate_is_told_as_it_was_shown() -> None:
    caller = seen(with_policies("any_cert"), caller=STRANGER)["caller"]
    assert set(caller) == {"policy", "cert"}
    certificate = x509.load_der_x509_certificate(CERTIFICATE)
    assert caller["cert"] == certificate.public_bytes(Encoding.PEM).decode()


def test_what_is_signed_is_told_with_who_has_signed_it() -> None:
    member = make_identity("m")
    member_id = requests.member_id_of(member.certificate)
    header = {cose.HEADER_KEY_ID: member_id.encode(), requests.HEADER_CREATED_AT: 1}
    body = cose.sign(member.key, header, b"my word")
    more: Any = {"headers": {"content-type": "application/cose"}, "caller": USER}
    signer = {
        "policy": "member_cose_sign1",
        "id": member_id,
        "data": "m",
        "cert": member.pem,
        "cose": {"content": "my word", "buffer": True},
    }
    service = with_policies("member_cose_sign1")
    service.put(member_rows({"m": member}))
    assert seen(service, body=body, **more)["caller"] == signer
    service = with_policies({"all_of": ["user_cert", "member_cose_sign1"]})
    service.put(member_rows({"m": member}))
    assert seen(service, body=body, **more)["caller"] == {
        "policy": ["member_cose_sign1", "user_cert"],
        "member_cose_sign1": signer,
        "user_cert": {"policy": "user_cert", "id": USER, "data": {"role": "clerk"}, "cert": "PEM"},
    }


def test_a_refused_caller_runs_nothing() -> None:
    service = Installed()
    service.install("ccf.kv.ran.set(ccf.strToBuf('k'), ccf.strToBuf('v')); return {};", authn_policies=["user_cert"])
    assert service.answer("POST", "/app/x", caller=STRANGER).status == 401
    assert service.store.get("ran", b"k") is None
    assert service.answer("POST", "/app/x").status == 200
    assert service.store.get("ran", b"k") == b"v"


def test_who_was_removed_while_the_script_ran_is_refused_and_nothing_is_written() -> None:
    service = Installed()

    def remove(scripted: Any) -> None:
        if service.store.get(tables.USER_CERTS, USER.encode()) is not None:
            service.put({tables.USER_CERTS: {USER.encode(): None}})

    service.on_scripted = remove
    service.install("ccf.kv.ran.set(ccf.strToBuf('k'), ccf.strToBuf('v')); return {};", authn_policies=["user_cert"])
    assert service.answer("POST", "/app/x").status == 401
    assert service.store.get("ran", b"k") is None
