"""Refreshes of issuers' keys: when, whom, what is written; and servers that are wrong in every way."""

import itertools
from typing import Any

import pytest

from ledgerd.enclave.jwt import fetch
from ledgerd.enclave.jwt.records import changes
from ledgerd.enclave.jwt.refresh import METADATA, PATIENCE_SECONDS, RUNNING_MAX
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import tables
from support.executing import NOW_S
from support.jwt import certificate, jwk, key, record, rows
from support.jwt_servers import BUNDLE, HOST, JWKS_PATH, NAME, Rig, Web, identity, page

RSA, P256 = key("RSA"), key("P-256")
JWKS_URL = NAME + JWKS_PATH


def rig(*keys: dict[str, Any], **options: Any) -> Rig:
    """A primary with one issuer whose server is there; not refreshed yet."""
    found = Rig(**options)
    found.web.issuer(NAME, *keys)
    found.set_issuer()
    return found


# What happens.


def test_a_new_issuer_is_refreshed_at_once_and_its_keys_are_in_the_table() -> None:
    found = rig(jwk(RSA, "a", use="sig"), jwk(P256, "b", issuer=NAME))
    found.run()
    assert found.web.asked == [NAME + METADATA, JWKS_URL]
    assert found.entries == [{tables.JWT_KEYS: rows(a=[record(RSA, NAME)], b=[record(P256, NAME, NAME)])}]
    assert found.numbers == (1, 1, 0)
    assert found.refresh.metrics()["issuers"] == {NAME: {"last_success_at_s": NOW_S, "failures_in_a_row": 0, "last_failure": None}}
    assert ("info", f"keys of JWT issuer {NAME} were refreshed: 2 keys, 2 rows changed") in found.logs
    assert not found.wires and len(found.closed) == 2


def test_who_refreshes_nothing_needs_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TlsContext] = []
    whole = TlsContext.for_web_servers

    def make() -> TlsContext:
        made.append(whole())
        return made[-1]

    monkeypatch.setattr(TlsContext, "for_web_servers", make)
    found = Rig()
    found.run(100)
    assert made == []
    found.web.issuer(NAME, jwk(RSA, "a"))
    found.set_issuer()
    found.run(100)
    assert (len(made), found.numbers) == (1, (1, 1, 0))


def test_a_refresh_that_brings_nothing_new_writes_nothing() -> None:
    found = rig(refresh_seconds=100)
    found.run(450)
    assert found.numbers == (5, 5, 0)
    assert len(found.entries) == 1


def test_changed_keys_are_written_at_the_next_refresh_and_others_keys_stay() -> None:
    found = rig(jwk(RSA, "a"), refresh_seconds=100)
    other = record(P256, "https://other.example")
    found.store.apply(found.store.version + 1, {tables.JWT_KEYS: rows(b=[other])})
    found.run(50)
    found.web.pages[JWKS_URL] = page({"keys": [jwk(P256, "b")]})
    found.run(51)
    assert found.entries[1:] == [{tables.JWT_KEYS: {b"a": None, **rows(b=[other, record(P256, NAME)])}}]


def test_keys_of_no_use_here_are_left_out_and_the_operator_hears_of_it() -> None:
    found = rig(jwk(RSA, "a"), {"kty": "OKP", "kid": "b", "crv": "Ed25519", "x": "AA"}, jwk(RSA, "c", use="enc"))
    found.run()
    assert found.entries == [{tables.JWT_KEYS: rows(a=[record(RSA, NAME)])}]
    assert ("info", f"of JWT issuer {NAME} 2 keys are left out; the first: key 1 is of another kty than RSA and EC") in found.logs


def test_an_issuer_s_keys_may_be_on_another_server_and_port_that_the_operator_allows_and_the_bundle_vouches_for() -> None:
    web = Web()
    web.issuer(NAME, jwks_uri="https://keys.example:8443/v1?p=q")
    web.identities["keys.example", 8443] = identity("keys.example")
    found = Rig(web, hosts=(HOST, "keys.example:8443"))
    found.set_issuer(root=identity(HOST).root_pem + identity("keys.example").root_pem)
    found.run()
    assert web.asked == [NAME + METADATA, "https://keys.example:8443/v1?p=q"]
    assert found.numbers == (1, 1, 0)


@pytest.mark.parametrize("name", [NAME + "/", NAME + "/tenant/v2.0", "https://ISSUER.example"])
def test_the_metadata_are_below_the_issuer_s_name(name: str) -> None:
    web = Web()
    web.issuer(name)
    web.identities[HOST, 443] = identity(HOST)
    web.pages[f"{name.removesuffix('/').replace('ISSUER', 'issuer')}{METADATA}"] = page({"jwks_uri": JWKS_URL})
    web.pages[JWKS_URL] = page({"keys": [jwk(P256, "k")]})
    found = Rig(web)
    found.set_issuer(name, root=identity(HOST).root_pem)
    found.run()
    assert found.entries == [{tables.JWT_KEYS: rows(k=[record(P256, name)])}]


def test_a_server_may_be_named_by_its_address() -> None:
    web = Web()
    name = "https://127.0.0.1"
    web.identities["127.0.0.1", 443] = identity(HOST)  # whose certificate has the address, too
    web.issuer(name)
    found = Rig(web, hosts=("127.0.0.1",))
    found.set_issuer(name, root=identity(HOST).root_pem)
    found.run()
    assert found.numbers == (1, 1, 0)


# When.


def test_only_the_primary_asks() -> None:
    found = rig()
    found.is_primary = False
    found.run(4000)
    assert found.web.asked == [] and found.numbers == (0, 0, 0)
    found.is_primary = True
    found.run()
    assert found.numbers == (1, 1, 0)


def test_who_is_no_longer_primary_writes_nothing_though_the_keys_have_come() -> None:
    found = rig()
    found.refresh.due = lambda: None  # type: ignore[method-assign]  # the answer comes in the wake-up in which the role is lost
    found.run()
    assert len(found.web.asked) == 2
    del found.refresh.due
    found.refresh.tick(found.now, False)
    assert found.refresh.due() is None
    assert found.refresh.metrics()["issuers"] == {}


def test_issuers_that_do_not_want_it_are_not_refreshed() -> None:
    for value in (False, None, 1, "true"):
        found = Rig()
        found.web.issuer()
        found.set_issuer(auto_refresh=value)
        found.run(4000)
        assert found.web.asked == []


@pytest.mark.parametrize("value", [b"nonsense", b"[]", b"7", b"[" * 10_000])
def test_a_record_that_is_none_is_no_issuer(value: bytes) -> None:
    found = rig()
    found.govern({tables.JWT_ISSUERS: {b"x": value, b"\xff": tables.encode({"auto_refresh": True})}})
    found.run()
    assert found.numbers == (2, 1, 1)  # the name that is no text has no bundle


def test_other_acts_of_governance_do_not_hurry_a_refresh_but_a_changed_issuer_or_bundle_does() -> None:
    found = rig()
    found.run(10)
    found.govern({tables.SERVICE_CONFIG: {tables.SINGLETON: b"{}"}})
    found.run(10)
    assert found.numbers == (1, 1, 0)
    found.set_issuer(note="changed")
    found.run(10)
    assert found.numbers == (2, 2, 0)
    found.set_issuer(note="changed", root=identity(HOST).root_pem + identity("other.example").root_pem)
    found.run(10)
    assert found.numbers == (3, 3, 0)


def test_what_was_asked_for_an_issuer_that_members_have_removed_meanwhile_is_not_written() -> None:
    found = rig()

    def removed(_: bytes) -> bytes:
        found.govern({tables.JWT_ISSUERS: {NAME.encode(): None}})
        return page({"keys": [jwk(P256, "k")]})

    found.web.pages[JWKS_URL] = removed
    found.run(4000)
    assert found.entries == [] and found.numbers == (1, 0, 0)
    assert len(found.web.asked) == 2


def test_a_removed_issuer_s_running_request_ends() -> None:
    found = rig()
    found.web.pages[JWKS_URL] = lambda _: None
    found.run(0)
    assert len(found.wires) == 1
    found.govern({tables.JWT_ISSUERS: {NAME.encode(): None}})
    found.run(0)
    assert not found.wires and found.numbers == (1, 0, 0)


def test_failures_are_repeated_with_patience_up_to_the_interval() -> None:
    found = rig()
    found.web.pages[JWKS_URL] = page({}, 500)
    found.run(0)
    times = [found.now]
    before = 1
    for _ in range(4000):
        found.run(1)
        if found.numbers[0] > before:
            before = found.numbers[0]
            times.append(found.now)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert gaps == [PATIENCE_SECONDS * factor for factor in (1, 2, 4, 8, 16)] + [1800][: len(gaps) - 5]
    assert found.refresh.metrics()["issuers"][NAME]["failures_in_a_row"] == before
    found.web.issuer()
    found.run(1800)
    assert found.refresh.metrics()["issuers"][NAME]["failures_in_a_row"] == 0


def test_a_few_issuers_are_refreshed_at_one_time_and_a_silent_one_does_not_keep_the_others_waiting() -> None:
    web = Web()
    names = [f"https://i{number}.example" for number in range(RUNNING_MAX + 3)]
    found = Rig(web, hosts=tuple(name.removeprefix("https://") for name in names))
    for name in names:
        web.issuer(name)
    web.silent = True
    roots = "".join(identity(name.removeprefix("https://")).root_pem for name in names)
    for name in names:
        found.set_issuer(name, root=roots)
    found.run(0)
    assert len(found.wires) == RUNNING_MAX
    found.run(25)
    assert found.numbers == (len(names), 0, len(names))
    assert not found.wires


# What may go wrong.


def failing(**pages: Any) -> Rig:
    """A rig whose server says this; `metadata` or `jwks`."""
    found = rig()
    for name, said in pages.items():
        found.web.pages[{"metadata": NAME + METADATA, "jwks": JWKS_URL}[name]] = said
    found.run(15)
    assert found.entries == []
    assert found.numbers == (1, 0, 1)
    assert not found.wires
    return found


def test_whom_the_operator_does_not_allow_is_not_asked() -> None:
    for hosts in ((), ("other.example",), (HOST + ":8443",), ("example",), ("sub." + HOST,)):
        found = rig(hosts=hosts)
        found.run()
        assert found.failure() == f"this node's operator does not allow {HOST} to be asked; it belongs into jwt.hosts"
        assert found._streams == 0
    found = failing(metadata=page({"jwks_uri": "https://169.254.169.254/latest/meta-data"}))
    assert "does not allow 169.254.169.254" in found.failure()
    assert found.web.asked == [NAME + METADATA]


def test_a_server_that_the_bundle_does_not_vouch_for_learns_nothing() -> None:
    found = Rig()
    found.web.issuer()
    found.set_issuer(root=identity("other.example").root_pem)
    found.run()
    assert found.failure().startswith(f"the server that the host led to is not {HOST}: ")
    assert found.failure().endswith("is its authority in the issuer's ca_cert_bundle?")
    assert found.web.asked == []


def test_a_server_of_another_name_learns_nothing_though_the_bundle_vouches_for_it() -> None:
    found = Rig()
    found.web.identities[HOST, 443] = identity("other.example")
    found.web.issuer()
    found.set_issuer(root=identity("other.example").root_pem)
    found.run()
    assert found.failure().startswith(f"the server that the host led to is not {HOST}: ")
    assert found.web.asked == []


def test_a_certificate_is_judged_by_attested_time() -> None:
    found = rig()
    found.run(1)
    assert found.numbers == (1, 1, 0)
    found.now += 40 * 86_400
    found.run(1)
    assert found.numbers == (2, 1, 1)
    assert "is not issuer.example" in found.failure()


@pytest.mark.parametrize("bundle", [b'"no certificate"', b"7", b"nonsense", b'""', b'"-----BEGIN CERTIFICATE-----"'])
def test_a_bundle_that_is_none_is_told(bundle: bytes) -> None:
    found = rig()
    found.govern({tables.CA_CERT_BUNDLES: {BUNDLE.encode(): bundle}})
    found.run()
    assert found.failure() == "the CA bundle is not PEM certificates; set_ca_cert_bundle replaces it"
    found.govern({tables.CA_CERT_BUNDLES: {BUNDLE.encode(): None}})
    found.run()
    assert found.failure() == f"there is no CA bundle {BUNDLE!r}; set_ca_cert_bundle makes one"
    assert found.numbers == (2, 0, 2)


def test_no_connection_and_a_lost_one_are_told() -> None:
    found = Rig()
    found.set_issuer()
    found.run()
    assert found.failure() == "no connection to its server could be had"
    found = rig()
    found.cut = True
    found.run()
    assert "ended the connection with 1 requests unanswered" in found.failure()


@pytest.mark.parametrize("where", ["metadata", "jwks"])
def test_a_server_that_says_nothing_is_given_up(where: str) -> None:
    found = failing(**{where: lambda _: None})
    assert found.failure() == "its server did not answer within 10 seconds"


def test_a_server_that_trickles_is_given_up_too() -> None:
    found = rig()
    found.web.pages[NAME + METADATA] = lambda _: b"HTTP/1.1 200 X\r\ncontent-length: 100000\r\n\r\n{"
    for _ in range(12):
        found.run(1)
        for stream, wire in list(found.wires.items()):
            wire.end.say(b" ")
            found.refresh.received(stream, wire.end.take_output())
    assert found.failure() == "its server did not answer within 10 seconds"


HEAD = b"HTTP/1.1 200 X\r\n"
DOCUMENT = b'{"jwks_uri":"https://issuer.example/keys"}'


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (page({}, 404), "answers 404 instead of 200"),
        (page({}, 500), "answers 500 instead of 200"),
        (page({}, 204).replace(b"content-length: 2\r\n\r\n{}", b"\r\n"), "answers 204 instead of 200"),
        (page(DOCUMENT, 302, "location: https://evil.example/\r\n"), "redirects to https://evil.example/, which is not followed"),
        (page(DOCUMENT, 307), "redirects to nowhere, which is not followed"),
        (page(DOCUMENT, 200, "content-encoding: gzip\r\n"), "content-encoding"),
        (page(b"<html>"), "not valid JSON"),
        (page(b""), "not valid JSON"),
        (page(b"[]"), "not an object"),
        (page(b'{"jwks_uri":"a","jwks_uri":"b"}'), "names a member twice"),
        (page(b"[" * 100_000), "not valid JSON"),
        (page(b'{"a":' * 40 + b"1" + b"}" * 40), "more than 32 levels"),
        (HEAD + b"content-length: 300000\r\n\r\n", "announces an answer larger than"),
        (HEAD + b"content-length: 99999999999999999999\r\n\r\n", "does not answer in HTTP"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 5, "sends an answer larger than"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}", "does not answer in HTTP"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}}}\r\n0\r\n\r\n", "does not answer in HTTP"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nx\r\n", "does not answer in HTTP"),
        (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "does not answer in HTTP"),
        (HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", "does not answer in HTTP"),
        (HEAD + b"content-length: 5\r\n\r\n" + DOCUMENT, "answers what nobody asked"),
        (b"HTTP/1.1 200 X\r\nx: " + b"y" * 40_000, "sends a header without end"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer in HTTP"),
        (page({}), "its metadata has no jwks_uri"),
        (page({"jwks_uri": 7}), "its metadata has no jwks_uri"),
        (page({"jwks_uri": "http://issuer.example/keys"}), "no URL that begins with https://"),
        (page({"jwks_uri": "https://user@issuer.example/keys"}), "no URL that begins with https://"),
        (page({"jwks_uri": "https://issuer.example/keys#x"}), "no URL that begins with https://"),
        (page({"jwks_uri": "https://issuer.example/a b"}), "no URL that begins with https://"),
        (page({"jwks_uri": "https://issuer.example/a\r\nx: y"}), "no URL that begins with https://"),
        (page({"jwks_uri": "https://issuer.example:0/"}), "no URL that begins with https://"),
        (page({"jwks_uri": "https://issuer.example/" + "x" * 3000}), "no URL that begins with https://"),
        (page({"jwks_uri": "file:///etc/passwd"}), "no URL that begins with https://"),
    ],
)
def test_metadata_that_are_wrong_change_nothing_and_are_told(said: bytes, why: str) -> None:
    assert why in failing(metadata=said).failure()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (page({}), "JWKS has no keys"),
        (page({"keys": []}), "JWKS has no keys"),
        (page({"keys": [jwk(key("RSA-1024"), "k")]}), "an RSA key of 1024 bits"),
        (page({"keys": [jwk(RSA, "k"), jwk(P256, "k")]}), "JWKS kid k is there twice"),
        (page({"keys": [{"kty": "RSA", "kid": "k", "x5c": [certificate(RSA)[:-4]]}]}), "does not begin with a certificate"),
        (page({"keys": [jwk(RSA, "k", issuer="https://victim.example")]}), "fails validation against issuer"),
        (page({"keys": [jwk(RSA, "k", use="enc")]}), "no key that is for signing"),
        (page({"keys": [jwk(RSA, str(number)) for number in range(101)]}), "JWKS has 101 keys"),
        (page({"keys": [jwk(RSA, "k")]}, 301, "location: https://issuer.example/other\r\n"), "is not followed"),
    ],
)
def test_keys_that_are_wrong_change_nothing_and_are_told(said: bytes, why: str) -> None:
    assert why in failing(jwks=said).failure()


def test_a_failure_leaves_the_keys_that_were_there() -> None:
    found = rig(refresh_seconds=100)
    found.run(10)
    found.web.pages[JWKS_URL] = page({"keys": []})
    found.run(100)
    assert found.numbers == (2, 1, 1)
    assert dict(found.store.map(tables.JWT_KEYS).items()) == changes([], NAME, {}) | rows(k=[record(P256, NAME)])


def test_the_largest_document_that_is_read_is_read() -> None:
    body = b'{"jwks_uri":"https://issuer.example/keys"'
    padded = body + b" " * (fetch.DOCUMENT_SIZE_BYTES_MAX - len(body) - 1) + b"}"
    found = rig()
    found.web.pages[NAME + METADATA] = page(padded)
    found.run()
    assert found.numbers == (1, 1, 0)
    assert "announces an answer larger" in failing(metadata=page(padded + b" ")).failure()
