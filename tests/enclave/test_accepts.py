"""Who is given the service's JSON: whoever takes it by the header `accept`, and everybody that CCF gives it to."""

import json

import pytest

from ledgerd.enclave.accepts import check_takes_json
from ledgerd.enclave.built_ins import DESCRIBED, built_in, gives_json
from ledgerd.enclave.endpoints import Context, Deferred, Result
from ledgerd.ledger.errors import RequestError
from support.executing import Node, error_of
from support.javascript import Installed, rows

# What CCF's own test of its JavaScript applications asks `/node/commit` for, and what browsers and libraries send.
TAKEN = (
    "*/*",
    "application/*",
    "application/json",
    "*/json",
    "text/html;q=0.9,image/jpeg;video/mpeg;q=0.8,*/*;q=0.1",
    "text/html;q=0.9,image/jpeg;video/mpeg;q=0.8,application/json;q=0.1",
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
    "*",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Application/JSON; charset=utf-8",
    "application/json;q=0",
    "application/json;q=1.000;level=1",
    "text/html,\tapplication/json",
    "application/json,",
)
REFUSED = ("text/html", "text/html;q=0.9,image/jpeg;video/mpeg;q=0.8", "application/msgpack", "application/jsonp", "text/json", "", ",")
MALFORMED = (
    "nonsense",
    "/",
    "application/",
    "/json",
    "application/json, nonsense",
    "nonsense, application/json",
    "application/json;q=",
    "application/json;q=high",
    ";q=1",
    "**",
)


@pytest.mark.parametrize("accept", TAKEN)
def test_who_takes_json_is_given_it(accept: str) -> None:
    check_takes_json({"accept": accept})


def test_who_says_nothing_is_given_it() -> None:
    check_takes_json({})


@pytest.mark.parametrize("accept", REFUSED)
def test_who_takes_none_is_told_what_there_is(accept: str) -> None:
    with pytest.raises(RequestError, match="application/json, and nothing else") as caught:
        check_takes_json({"accept": accept})
    assert (caught.value.status, caught.value.error_code) == (406, "UnsupportedContentType")


@pytest.mark.parametrize("accept", MALFORMED)
def test_what_names_no_media_type_is_refused(accept: str) -> None:
    with pytest.raises(RequestError, match="header accept") as caught:
        check_takes_json({"accept": accept})
    assert (caught.value.status, caught.value.error_code) == (400, "InvalidHeaderValue")


def test_a_long_header_is_not_given_back_whole() -> None:
    for accept in ("a/b," * 4_000, "a" * 16_000):
        with pytest.raises(RequestError) as caught:
            check_takes_json({"accept": accept})
        assert len(caught.value.message) < 400


def test_which_of_the_services_endpoints_it_concerns() -> None:
    others = {label for label in DESCRIBED if not gives_json(label)}
    assert others == {
        "GET /receipt/cose",
        "GET /ready/app",
        "GET /ready/gov",
        *(f"{verb} /{role}" for verb in ("GET", "HEAD") for role in ("primary", "backup")),
    }


def _asking(label: str, result: Result, accept: str) -> tuple[int, str]:
    """Status and code of what such an endpoint answers, whose handler writes and then gives `result`."""

    def handler(context: Context) -> Result:
        context.kv["records"].set(b"k", b"v")
        if isinstance(result, RequestError):
            raise result
        return result

    node = Node()
    method, _, path = label.partition(" ")
    node.node.add(built_in(method, path, handler, readonly=False))
    outcome = node.ask(method, f"/node{path}", headers={"accept": accept})
    assert (outcome.writes is None) == (outcome.response is not None and outcome.response.status >= 300)
    response = outcome.response
    assert response is not None
    return response.status, error_of(response)["code"] if response.status >= 400 else ""


def test_an_answer_that_is_not_taken_changes_nothing() -> None:
    assert _asking("GET /commit", {}, "application/json") == (200, "")
    assert _asking("GET /commit", {}, "text/html") == (406, "UnsupportedContentType")
    assert _asking("GET /commit", {}, "nonsense") == (400, "InvalidHeaderValue")


def test_what_is_no_json_is_given_to_all() -> None:
    assert _asking("GET /receipt/cose", b"cose", "text/html") == (200, "")
    assert _asking("GET /ready/gov", None, "nonsense") == (204, "")


def test_what_went_wrong_is_told_in_json_to_all() -> None:
    assert _asking("GET /tx", RequestError(404, "ResourceNotFound", "none"), "text/html") == (404, "ResourceNotFound")


def test_a_promise_is_not_given_to_who_would_not_take_what_is_promised() -> None:
    node = Node()
    node.node.add(built_in("GET", "/receipt", lambda _: Deferred("receipt")))
    assert node.ask("GET", "/node/receipt", headers={"accept": "application/json"}).deferred is not None
    refused = node.ask("GET", "/node/receipt", headers={"accept": "application/cose"}).response
    assert refused is not None
    assert refused.status == 406


def test_applications_answer_as_they_like() -> None:
    service = Installed()
    service.put(rows({"GET /a": {}}, {"/app.js": "export const main = (request) => ({body: {accept: request.headers.accept}})"}))
    response = service.answer("GET", "/app/a", headers={"accept": "text/html"})
    assert (response.status, response.content_type, json.loads(response.body)) == (200, "application/json", {"accept": "text/html"})
    assert service.answer("GET", "/node/js_metrics", headers={"accept": "text/html"}).status == 406
