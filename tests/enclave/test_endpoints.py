"""Which endpoint a path finds, and what a path that finds none is told."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave.endpoints import Context, Endpoint, Maps, Registry, parse_query
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request
from ledgerd.enclave.scripts.overlay import OverlayTransaction
from ledgerd.ledger.errors import RequestError, UsageError


def nothing(ctx: Context) -> None:
    """A handler."""


def registry(*templates: str, method: str = "GET") -> Registry:
    made = Registry("app")
    for template in templates:
        made.add(Endpoint(method, template, nothing))
    return made


def found(made: Registry, path: str, method: str = "GET") -> tuple[str, dict[str, str]]:
    endpoint, params = made.match(method, path)
    return endpoint.template, params


def refusal(made: Registry, path: str, method: str = "GET") -> RequestError:
    with pytest.raises(RequestError) as caught:
        made.match(method, path)
    return caught.value


def test_literal_segments_go_before_parameters_whatever_the_order_of_adding() -> None:
    templates = ["/a/{x}", "/a/b", "/{x}/c", "/a/{x}/c", "/a/b/d", "/{x}/b/{y}"]
    for order in (templates, templates[::-1]):
        made = registry(*order)
        assert found(made, "/app/a/b") == ("/a/b", {})
        assert found(made, "/app/a/z") == ("/a/{x}", {"x": "z"})
        assert found(made, "/app/z/c") == ("/{x}/c", {"x": "z"})
        assert found(made, "/app/a/c") == ("/a/{x}", {"x": "c"})
        assert found(made, "/app/a/b/c") == ("/a/{x}/c", {"x": "b"})
        assert found(made, "/app/a/b/d") == ("/a/b/d", {})
        assert found(made, "/app/a/b/e") == ("/{x}/b/{y}", {"x": "a", "y": "e"})


def test_an_action_follows_a_parameter() -> None:
    made = registry("/proposals/{id}", "/proposals/{id}:withdraw", "/proposals/{id}/ballots/{member}:submit")
    assert found(made, "/app/proposals/7:withdraw") == ("/proposals/{id}:withdraw", {"id": "7"})
    assert found(made, "/app/proposals/7:other") == ("/proposals/{id}", {"id": "7:other"})
    assert found(made, "/app/proposals/a:b:withdraw") == ("/proposals/{id}:withdraw", {"id": "a:b"})
    assert found(made, "/app/proposals/:withdraw") == ("/proposals/{id}", {"id": ":withdraw"})
    assert found(made, "/app/proposals/7/ballots/8:submit") == ("/proposals/{id}/ballots/{member}:submit", {"id": "7", "member": "8"})
    assert refusal(made, "/app/proposals/7/ballots/8").status == 404


@pytest.mark.parametrize(
    "path", ["/app/records/", "/app/records", "/app//records/x", "/app/records/x/", "/app/records/x/y", "/app", "/", "", "/other/records/x"]
)
def test_a_parameter_is_one_whole_segment(path: str) -> None:
    error = refusal(registry("/records/{key}"), path)
    assert (error.status, error.error_code, error.message) == (404, "ResourceNotFound", f"Unknown path: {path}.")


def test_only_parameters_are_percent_decoded() -> None:
    made = registry("/records/{key}")
    assert found(made, "/app/records/a%2Fb%20c%C3%A4+") == ("/records/{key}", {"key": "a/b cä+"})
    assert refusal(made, "/app/%72ecords/x").status == 404
    assert refusal(made, "/%61pp/records/x").status == 404


@pytest.mark.parametrize("segment", ["%", "%4", "%zz", "a%2", "%ff", "%C3", "%u0041"])
def test_a_broken_escape_is_refused(segment: str) -> None:
    error = refusal(registry("/records/{key}"), f"/app/records/{segment}")
    assert (error.status, error.error_code) == (400, "InvalidResourceName")


def test_a_known_path_with_another_verb_says_which_verbs_there_are() -> None:
    made = registry("/records/{key}")
    made.add(Endpoint("PUT", "/records/{key}", nothing))
    made.add(Endpoint("POST", "/records/all", nothing))
    error = refusal(made, "/app/records/all", "DELETE")
    assert (error.status, error.error_code) == (405, "UnsupportedHttpVerb")
    assert error.headers == (("allow", "OPTIONS, GET, POST, PUT"),)
    assert error.message == "Allowed methods for '/app/records/all' are: OPTIONS, GET, POST, PUT."
    assert refusal(made, "/app/records/x", "BREW").status == 405
    assert found(made, "/app/records/all", "PUT") == ("/records/{key}", {"key": "all"})


def test_a_long_path_is_not_repeated_in_full() -> None:
    assert len(refusal(registry(), "/app/" + "x" * 10_000).message) < 300


@pytest.mark.parametrize("template", ["records", "/{}", "/{a b}", "/x{a}", "/{a}x", "/{a}:", "/{a}/{a}", "/}"])
def test_a_malformed_template_is_refused_where_it_is_declared(template: str) -> None:
    with pytest.raises(UsageError):
        Endpoint("GET", template, nothing)


@pytest.mark.parametrize(("first", "second"), [("/a", "/a"), ("/{x}", "/{y}"), ("/{x}:go", "/{y}:go")])
def test_no_two_endpoints_share_verb_and_path(first: str, second: str) -> None:
    made = registry(first)
    with pytest.raises(UsageError):
        made.add(Endpoint("GET", second, nothing))


def test_verbs_and_policies_are_known_ones() -> None:
    for wrong in ({"method": "get"}, {"policies": ["root"]}):
        with pytest.raises(UsageError):
            Endpoint(**{"method": "GET", "template": "/a", "handler": nothing, **wrong})  # type: ignore[arg-type]


def test_writers_are_forwarded_and_readers_are_not_by_default() -> None:
    assert [Endpoint(method, "/a", nothing).forwarding for method in ("GET", "HEAD", "PUT", "POST", "DELETE")] == [
        "sometimes",
        "sometimes",
        "always",
        "always",
        "always",
    ]


def test_a_registry_lists_what_it_holds() -> None:
    made = registry("/b/{x}:go", "/a", "/b/{x}", "/b/c/{y}")
    assert [endpoint.label for endpoint in made] == ["GET /app/a", "GET /app/b/c/{y}", "GET /app/b/{x}", "GET /app/b/{x}:go"]


segments = st.sampled_from(["a", "b", "{p}", "{p}:a"])
templates = st.lists(segments, min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(part.replace("p", f"p{i}") for i, part in enumerate(parts))
)


@given(
    declared=st.sets(templates, max_size=8),
    path=st.lists(st.sampled_from(["a", "b", "c", "c:a", ":a", ""]), max_size=4).map(lambda parts: "".join("/" + part for part in parts)),
)
def test_matching_is_that_of_the_templates_as_regular_expressions(declared: set[str], path: str) -> None:
    def pattern(template: str) -> str:
        return "".join("/" + ("[^/]+" + part.partition("}")[2] if part[0] == "{" else part) for part in template[1:].split("/"))

    def rank(template: str) -> list[int]:  # per segment: literal, then action, then parameter
        return [0 if part[0] != "{" else 2 - (":" in part) for part in template[1:].split("/")]

    fitting = sorted((template for template in declared if re.fullmatch(pattern(template), path)), key=rank)
    made = registry(*declared)
    if fitting:
        assert found(made, f"/app{path}")[0] == fitting[0]
    else:
        assert refusal(made, f"/app{path}").status == 404


def test_a_query_is_decoded() -> None:
    assert parse_query("") == {}
    assert parse_query("a=1&b=x%20y+z&empty=&flag") == {"a": "1", "b": "x y z", "empty": "", "flag": ""}


@pytest.mark.parametrize("query", ["a=%", "a=%zz", "a=%ff", "a=1&b=2&a=1", "a=1&%61=2", "&".join(f"a{i}=1" for i in range(300))])
def test_a_malformed_query_is_refused(query: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_query(query)
    assert (caught.value.status, caught.value.error_code) == (400, "InvalidQueryParameterValue")


def test_what_scripts_did_to_a_request_can_be_undone_and_what_was_done_before_stays() -> None:
    transaction = OverlayTransaction(Store())
    context = Context(Request(None, "POST", "/app/x", "", {}, b"", None, ""), {}, None, Maps(transaction), transaction)
    overlay = context.overlay
    overlay.set("m", b"before", b"1")
    context.set_claims_digest(bytes([1]) * 32)
    mark = context.mark()
    overlay.set("m", b"k", b"2")
    overlay.delete("m", b"before")
    overlay.set("n", b"k", b"3")
    overlay.due.add("renewal")
    context.set_claims_digest(bytes([2]) * 32)
    context.set_apply_writes(True)
    context.go_back(mark)
    assert overlay.writes == {"m": {b"before": b"1"}}
    assert (overlay.due, context.claims_digest, context.applies_writes) == (set(), bytes([1]) * 32, None)
