"""`ledgerd gov propose`: every action of the constitution from options, whole proposals from files; what is sent is what was shown."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ledgerd.governance import constitution, requests
from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.node.cli.gov_actions import ACTIONS, Action, Argument, Kind
from ledgerd.node.cli.gov_propose import gov_propose
from support.cluster import of_no_version
from support.command_line import Ledgerd
from support.consortium import CAROL, NITRO_ROOT, OTHER_ROOT, RSA_PEM, SERVICE, THIS, USER, key, member_id
from support.consortium import service as consortium
from support.constitution import Constitution, text_of, with_rows
from support.council import Council
from support.fake_service import FakeAnswer, FakeRequest, FakeService
from support.governed import ALICE, BOB, id_of
from support.members import files
from support.proposed_actions import CONSTITUTION, JWKS, METADATA, TCB
from support.repository import ROOT

OURS = Constitution(text_of(constitution.BY_VOTE))
SHAPES: dict[str, dict[str, dict[str, Any]]] = OURS.eval(
    "Object.fromEntries([...actions].map(([name, { args }]) => [name, Object.fromEntries(Object.entries(args).map(([argument, shape]) =>"
    " [argument, { kind: shape.kind, one: shape.one ?? null, values: shape.values ?? null, optional: Boolean(shape.optional) }]))]))"
)
FITTING = {
    "text": {Kind.TEXT, Kind.HEX, Kind.ID, Kind.CERTIFIED, Kind.TIME, Kind.SCRIPTS, Kind.PUBLIC_KEY},
    "whole": {Kind.WHOLE},
    "flag": {Kind.FLAG},
    "choice": {Kind.CHOICE},
    "anything": {Kind.VALUE},
    "data": {Kind.OBJECT},
    "fields": {Kind.OBJECT, Kind.BUNDLE},
}


# The table.


def test_the_table_has_every_action_and_argument_of_the_constitution() -> None:
    assert {action.name: {argument.name: argument.optional for argument in action.arguments} for action in ACTIONS.values()} == {
        name: {argument: shape["optional"] for argument, shape in shapes.items()} for name, shapes in SHAPES.items()
    }


def test_each_argument_is_given_as_what_the_constitution_expects() -> None:
    for action in ACTIONS.values():
        for argument in action.arguments:
            shape = SHAPES[action.name][argument.name]
            if shape["kind"] == "certificate":
                assert argument.kind in ({Kind.CERTIFICATE, Kind.SERVICE} if shape["one"] else {Kind.CERTIFICATES}), argument
            else:
                assert argument.kind in FITTING[shape["kind"]], argument
            assert set(argument.values) == set(shape["values"] or ()), argument


# Every action from its options. Values are such that the constitution takes them in the service of its own tests.

TEXTS = {
    "version": "1.2.0",
    "did": "did:x509:one",
    "feed": "feed",
    "svn": "100",
    "issuer": METADATA["issuer"],
    "name": "roots",
    "ca_cert_bundle_name": "roots",
    "security_policy": "",
    "measurement": "a0" * 48,
    "host_data": "ab" * 32,
    "cpuid": "00a00f11",
}
OBJECTS = {"jwks": JWKS, "tcb_version": TCB, "member_data": {"name": "Bank A"}, "user_data": {"role": "clerk"}}
PCRS = {"pcr0": "a0" * 48, "pcr1": "b0" * 48, "pcr2": "c0" * 48}


def given(action: Action, argument: Argument, folder: Path) -> tuple[list[object], Any]:
    """The words that give an argument, and the value that the proposal must have."""

    def file(text: str) -> Path:
        path = folder / f"{argument.name}.pem"
        path.write_text(text)
        return path

    option = argument.option
    match argument.kind:
        case Kind.CERTIFICATE | Kind.SERVICE | Kind.CERTIFICATES:
            pem = {"root": OTHER_ROOT.pem, "cert_bundle": NITRO_ROOT.pem + OTHER_ROOT.pem}.get(argument.name, SERVICE.pem)
            return [option, file(pem)], pem
        case Kind.PUBLIC_KEY:
            return [option, file(RSA_PEM)], RSA_PEM
        case Kind.OBJECT:
            return [option, json.dumps(OBJECTS[argument.name])], OBJECTS[argument.name]
        case Kind.VALUE:
            return [option, '["zone", 1]'], ["zone", 1]
        case Kind.SCRIPTS:
            return [file(CONSTITUTION)], CONSTITUTION
        case Kind.CERTIFIED:
            who = {"root_id": NITRO_ROOT, "member_id": CAROL}.get(argument.name, USER)
            return [option, file(who.pem)], member_id(who)
        case Kind.ID:
            node = "33" * 32 if action.name == "transition_node_to_trusted" else "11" * 32
            return [option, node], node
        case Kind.HEX:
            value = PCRS.get(argument.name) or {4: "00a00f11", 8: "d315000000000004", 32: "ab" * 32, 48: "a0" * 48}[argument.size]
            return [option, value.upper()], value
        case Kind.TEXT:
            return [option, TEXTS[argument.name]], TEXTS[argument.name]
        case Kind.WHOLE:
            return [option, 2], 2
        case Kind.TIME:
            return [option, "2027-02-01T13:00:00+01:00"], "20270201120000Z"
        case Kind.FLAG:
            flag = argument.name not in ("disable_bytecode_cache", "ensure_new_records_exist")
            return [option, "yes" if flag else "no"], flag
        case Kind.CHOICE:
            return [option, argument.values[0]], argument.values[0]
        case Kind.BUNDLE:
            return [option, application(folder)], BUNDLE
        case _:  # pragma: no cover
            raise AssertionError(argument.kind)


APP = {
    "endpoints": {
        "/hello": {
            "get": {
                "js_module": "hello.js",
                "js_function": "hello",
                "mode": "readonly",
                "forwarding_required": "sometimes",
                "authn_policies": ["user_cert"],
            }
        }
    }
}
HELLO, WORDS = "import { w } from './lib/words.js';\nexport const hello = () => ({ body: w });\n", "export const w = 'grüezi';\n"
BUNDLE = {"metadata": APP, "modules": [{"name": "hello.js", "module": HELLO}, {"name": "lib/words.js", "module": WORDS}]}


def application(folder: Path) -> Path:
    """A folder in CCF's layout."""
    app = folder / "app"
    (app / "src" / "lib").mkdir(parents=True)
    (app / "app.json").write_text(json.dumps(APP))
    (app / "src" / "hello.js").write_text(HELLO)
    (app / "src" / "lib" / "words.js").write_text(WORDS, encoding="utf-8")
    (app / "src" / ".DS_Store").write_bytes(b"\xff\x00")
    return app


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_is_proposed_by_options_as_the_constitution_takes_it(ledgerd: Ledgerd, tmp_path: Path, name: str) -> None:
    action = ACTIONS[name]
    words, arguments = [], {}
    for argument in action.arguments:
        more, arguments[argument.name] = given(action, argument, tmp_path)
        words += more
    ran = ledgerd("gov", "propose", name, "--print", *words)
    assert (ran.status, ran.err) == (0, "")
    proposal = json.loads(ran.out)
    assert proposal == {"actions": [{"name": action.name, "args": arguments} if action.arguments else {"name": action.name}]}
    before = with_rows(consortium(), NITRO_ROOTS={key(OTHER_ROOT): OTHER_ROOT.pem.encode()})
    if name == "assert-service-identity":
        assert arguments == {"service_identity": SERVICE.pem}
    assert OURS.validate(proposal, before) is None
    OURS.apply(proposal, before, THIS)


@pytest.mark.parametrize("name", [name for name, action in ACTIONS.items() if all(one.optional for one in action.arguments)])
def test_what_is_left_out_is_not_in_the_proposal(ledgerd: Ledgerd, name: str) -> None:
    ran = ledgerd("gov", "propose", name, "--print", "-o", "json")
    (action,) = ran.json["proposal"]["actions"]
    assert action.get("args", {}) == {}
    assert ran.json["schema"] == "ledgerd.gov_proposal.v1"


def test_the_constitutions_own_names_of_actions_are_taken_too(ledgerd: Ledgerd) -> None:
    assert ledgerd("gov", "propose", "trigger_snapshot", "--print").out == ledgerd("gov", "propose", "trigger-snapshot", "--print").out


def test_help_lists_every_action(ledgerd: Ledgerd) -> None:
    ran = ledgerd("gov", "propose", "--help")
    assert all(name in ran.out for name in ACTIONS)
    assert list(gov_propose.list_commands(None)) == ["FILE", *ACTIONS]  # type: ignore[arg-type]
    one = ledgerd("gov", "propose", "set-user", "--help").out
    assert one.index("Of this action") < one.index("--cert") < one.index("Of every proposal") < one.index("--expires-in")


# Proposing.


@pytest.fixture
def signing(tmp_path: Path) -> list[object]:
    return files(ALICE, tmp_path)


def test_a_proposal_is_signed_sent_and_told(ledgerd: Ledgerd, council: Council, options: list[object], signing: list[object]) -> None:
    words = ["--member-id", id_of(BOB), "--member-data", '{"name": "Bank B"}']
    ran = ledgerd("gov", "propose", "set-member-data", *words, *signing, *options)
    assert ran.status == 0, ran.err
    (signed,) = council.seen
    assert (signed.kind, signed.member_id, signed.proposal_id) == (requests.PROPOSAL, id_of(ALICE), None)
    assert abs(signed.created_at - time.time()) < 60
    arguments = {"member_id": id_of(BOB), "member_data": {"name": "Bank B"}}
    assert json.loads(signed.payload) == {"actions": [{"name": "set_member_data", "args": arguments}]}
    (name,) = council.names()
    assert (ran.fields["proposal_id"], ran.fields["state"], ran.fields["ballots"], ran.fields["active_members"]) == (name, "Open", "0", "2")
    assert f"ledgerd gov vote {name} --for" in ran.err
    assert "0 of 2 active members have voted" in ran.err


def test_what_the_constitution_refuses_is_told_in_its_words(
    ledgerd: Ledgerd, council: Council, options: list[object], signing: list[object]
) -> None:
    ran = ledgerd("gov", "propose", "set-recovery-threshold", "--recovery-threshold", 0, *signing, *options)
    assert (ran.status, ran.out) == (1, "")
    assert "set_recovery_threshold at position 0: recovery_threshold: expected a whole number from 1 to 254, got the number 0" in ran.err
    assert council.names() == []


def test_the_result_is_the_same_in_json(ledgerd: Ledgerd, council: Council, options: list[object], signing: list[object]) -> None:
    ran = ledgerd("gov", "propose", "trigger-snapshot", "-o", "json", *signing, *options)
    (name,) = council.names()
    assert ran.json == {
        "schema": "ledgerd.gov_propose.v1",
        "proposal_id": name,
        "state": "Open",
        "ballots": 0,
        "active_members": 2,
        "member_id": id_of(ALICE),
        "transaction_id": "2.7",
        "final_votes": None,
        "vote_failures": None,
        "failure": None,
    }


def test_a_file_is_signed_byte_for_byte(
    ledgerd: Ledgerd, council: Council, options: list[object], signing: list[object], tmp_path: Path
) -> None:
    file = tmp_path / "proposal.json"
    file.write_bytes(b'{ "actions" : [ {"name": "trigger_snapshot"} ],\n "note": "\xc3\xa9" }\n')
    assert ledgerd("gov", "propose", file, *signing, *options).status == 0
    assert council.seen[0].payload == file.read_bytes()
    assert json.loads(ledgerd("gov", "propose", file, "--print").out)["note"] == "é"


def test_a_file_may_be_standard_input(ledgerd: Ledgerd, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from ledgerd.node.cli.main import cli

    ran = CliRunner().invoke(
        cli, ["gov", "propose", "-", "--print"], input='{"actions": [{"name": "trigger_snapshot"}]}', prog_name="ledgerd"
    )
    assert json.loads(ran.stdout) == {"actions": [{"name": "trigger_snapshot"}]}


@pytest.mark.parametrize(
    ("words", "least", "most"), [(["--expires-in", "52w"], 31_449_590, 31_449_610), (["--expires-at", "2099-01-01T00:00:00Z"], None, None)]
)
def test_when_it_expires_is_part_of_it(ledgerd: Ledgerd, tmp_path: Path, words: list[str], least: int | None, most: int | None) -> None:
    file = tmp_path / "proposal.json"
    file.write_text('{"actions": [{"name": "trigger_snapshot"}]}')
    for what in ("trigger-snapshot", file):
        found = json.loads(ledgerd("gov", "propose", what, "--print", *words).out)
        assert OURS.validate(found, consortium()) is None
        if least is None or most is None:
            assert found["expires_at"] == 4_070_908_800
        else:
            assert least < found["expires_at"] - time.time() < most


def test_the_service_is_asked_for_its_own_certificate(
    ledgerd: Ledgerd, council: Council, service: FakeService, options: list[object]
) -> None:
    from ledgerd.governance import tables

    record = {"cert": SERVICE.pem, "status": "Opening", "recovery_count": 0, "service_data": None}
    council.node.put({tables.SERVICE_INFO: {tables.SINGLETON: tables.encode(record)}})
    for name, argument in (("transition-service-to-open", "next_service_identity"), ("assert-service-identity", "service_identity")):
        found = json.loads(ledgerd("gov", "propose", name, "--print", *options).out)
        assert found["actions"][0]["args"] == {argument: SERVICE.pem}
        offline = json.loads(ledgerd("gov", "propose", name, "--print", "--service-cert", service.certificate_file).out)
        assert offline["actions"][0]["args"] == {argument: service.ledger.certificate}
    ran = ledgerd("gov", "propose", "transition-service-to-open", "--print")
    assert (ran.status, "which service?" in ran.err) == (2, True)


def test_an_image_gives_its_measurements(ledgerd: Ledgerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledgerd.node.cli import image

    class Image:
        def measure(self) -> Measurement:
            return Measurement(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48)

    monkeypatch.setattr(image, "read_image", lambda file: Image())
    file = tmp_path / "ledger.eif"
    file.write_bytes(b"")
    found = json.loads(ledgerd("gov", "propose", "add-nitro-measurement", "--image", file, "--print").out)
    assert found["actions"][0]["args"] == {"pcr0": "01" * 48, "pcr1": "02" * 48, "pcr2": "03" * 48}


def test_a_file_that_is_no_image_is_told(ledgerd: Ledgerd, tmp_path: Path) -> None:
    file = tmp_path / "ledger.eif"
    file.write_bytes(b"no image")
    ran = ledgerd("gov", "propose", "add-nitro-measurement", "--image", file, "--print")
    assert (ran.status, ran.out) == (1, "")


# Applications.


def test_a_bundle_may_be_the_file_that_tools_make(ledgerd: Ledgerd, tmp_path: Path) -> None:
    forms: list[Any] = [BUNDLE, {"bundle": BUNDLE}, {"actions": [{"name": "set_js_app", "args": {"bundle": BUNDLE}}]}]
    for form in forms:
        file = tmp_path / "bundle.json"
        file.write_text(json.dumps(form))
        found = json.loads(ledgerd("gov", "propose", "set-js-app", "--bundle", file, "--print").out)
        assert found["actions"][0]["args"] == {"bundle": BUNDLE}


def broken_applications(folder: Path) -> Iterator[tuple[Path, str]]:
    def make(name: str) -> Path:
        (folder / name).mkdir()
        return application(folder / name)

    app = make("none")
    (app / "app.json").unlink()
    yield app, "has no app.json"
    app = make("built")
    (app / "dist").mkdir()
    (app / "app.json").rename(app / "dist" / "app.json")
    yield app, "dist/"
    app = make("sources")
    (app / "src" / "inner").mkdir()
    (app / "src" / "inner" / "x.ts").write_text("const x: number = 1;")
    yield app, "src/inner/x.ts is TypeScript"
    app = make("json")
    (app / "app.json").write_text("{")
    yield app, "is no JSON"
    app = make("endpoints")
    (app / "app.json").write_text("[]")
    yield app, "has no endpoints"
    app = make("binary")
    (app / "src" / "x.js").write_bytes(b"\xff")
    yield app, "byte 0 is not UTF-8"
    app = make("link")
    (app / "src" / "secret.js").symlink_to("/etc/hostname")
    yield app, "is a link to outside"
    yield folder / "nowhere", "cannot read"
    file = folder / "empty.json"
    file.write_text("{}")
    yield file, "is no application"


def test_what_is_no_application_is_told(ledgerd: Ledgerd, tmp_path: Path) -> None:
    for path, told in broken_applications(tmp_path):
        ran = ledgerd("gov", "propose", "set-js-app", "--bundle", path, "--print")
        assert (ran.status, ran.out) == (2, ""), path
        assert told in ran.err, ran.err


# Hostile and mistaken input: told before anything is signed or sent.


def pem_of(curve: ec.EllipticCurve) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(curve)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public


PRIVATE, PUBLIC = pem_of(ec.SECP256R1())
PROPOSAL = b'{"actions": [{"name": "x"}]}'


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "is no proposal"),
        (b'{"actions": []}', "is no proposal"),
        (b'{"actions": {}}', "is no proposal"),
        (b'{"actions": [1]}', "the action at position 0 has no name"),
        (b'{"actions": [{"name": "x"}, {"name": 1}]}', "the action at position 1 has no name"),
        (b'{"actions": [{"name": "x", "name": "y"}]}', "names a member twice"),
        (b'{"actions": [{"name": "x", "args": NaN}]}', "NaN is not a number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"actions": ' + b"[" * 70 + b"]" * 70 + b"}", "nested too deeply"),
        (b'{"actions": ' + b"9" * 10_000 + b"}", "is no JSON"),
        (requests.sign(ALICE.key, ALICE.certificate, requests.PROPOSAL, PROPOSAL, created_at=1), "is a signed request already"),
    ],
)
def test_a_file_that_is_no_proposal_is_told(
    ledgerd: Ledgerd, service: FakeService, options: list[object], signing: list[object], tmp_path: Path, data: bytes, told: str
) -> None:
    file = tmp_path / "proposal.json"
    file.write_bytes(data)
    ran = ledgerd("gov", "propose", file, *signing, *options)
    assert (ran.status, ran.out, told in ran.err) == (2, "", True), ran.err
    assert service.nodes[0].requests == []


def test_a_file_without_end_is_not_read_to_its_end(ledgerd: Ledgerd) -> None:
    for words in (
        ["/dev/zero"],
        ["set-user", "--cert", "/dev/zero"],
        ["set-user-data", "--user-id", "ab" * 32, "--user-data", "@/dev/zero"],
    ):
        ran = ledgerd("gov", "propose", *words, "--print")
        assert (ran.status, "which is too much" in ran.err) == (2, True), ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["set-usr", "--cert", "x"], "did you mean set-user?"),
        (["nonsense"], "neither an action nor a file"),
        (["--print", "set-user"], "its name comes first"),
        (["set-user", "--cert", "FILE:text"], "--cert: "),
        (["set-user", "--cert", "FILE:private"], "--cert: it has no certificate"),
        (["set-user", "--cert", "FILE:two"], "2 certificates"),
        (["set-user", "--cert", "FILE:broken"], "a broken one"),
        (["set-user", "--cert", "FILE:odd"], "a broken one"),
        (["set-user", "--cert", "/nonexistent"], "cannot read"),
        (["set-user", "--cert", "FILE:one", "--user-data", "[1]"], "expected a JSON object"),
        (["set-user", "--cert", "FILE:one", "--user-data", "{"], "is no JSON"),
        (["set-user", "--cert", "FILE:one", "--user-data", "@/nonexistent"], "cannot read"),
        (["set-user", "--cert", "FILE:one", "--user-data", ""], "got nothing"),
        (["set-member", "--cert", "FILE:one", "--encryption-pub-key", "FILE:public"], "is no RSA key"),
        (["set-member", "--cert", "FILE:one", "--encryption-pub-key", "FILE:private"], "must never be in a proposal"),
        (["set-member", "--cert", "FILE:one", "--encryption-pub-key", "FILE:one"], "is no public key"),
        (["remove-user", "--user-id", "ABCD"], "is neither an id"),
        (["remove-node", "--node-id", "AB" * 32], "is no id"),
        (["remove-node", "--node-id", "abcdef0"], "is no id"),
        (["remove-node", "--node-id", "abcdef01"], "--node-id: abcdef01 are the first digits of a node's name; give all of them, or --url"),
        (["set-recovery-threshold", "--recovery-threshold", "-1"], "is no whole number"),
        (["set-recovery-threshold", "--recovery-threshold", "9" * 20], "is no whole number"),
        (["set-recovery-threshold", "--recovery-threshold", "٣"], "is no whole number"),
        (["add-snp-measurement", "--measurement", "ab"], "96 hexadecimal digits"),
        (["add-nitro-measurement", "--pcr0", "a0" * 48], "which count together"),
        (["add-nitro-measurement"], "which count together"),
        (["set-all-nodes-certificate-validity", "--valid-from", "soon"], "is no time"),
        (["set-all-nodes-certificate-validity", "--valid-from", "20271301000000Z"], "is no time"),
        (["set-constitution", "/nonexistent"], "cannot read"),
        (["trigger-snapshot", "--expires-in", "5 days"], "no length of time"),
        (["trigger-snapshot", "--expires-in", "1d", "--expires-at", "2099-01-01"], "one of the two"),
        (["trigger-snapshot", "--expires-at", "2020-01-01"], "has passed already"),
        (["FILE:expiring", "--expires-in", "1d"], "says itself when it expires"),
    ],
)
def test_a_wrong_value_is_told_with_its_option(ledgerd: Ledgerd, tmp_path: Path, words: list[str], told: str) -> None:
    texts = {
        "text": b"no pem\xff",
        "one": ALICE.pem.encode(),
        "two": (ALICE.pem + SERVICE.pem).encode(),
        "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "odd": of_no_version(ALICE.pem).encode(),
        "private": PRIVATE,
        "public": PUBLIC,
        "expiring": b'{"actions": [{"name": "x"}], "expires_at": 1}',
    }
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    ran = ledgerd(
        "gov", "propose", *(word.replace("FILE:", f"{tmp_path}/") for word in words), *([] if "--print" in words else ["--print"])
    )
    assert (ran.status, ran.out) == (2, "")
    assert told in ran.err, ran.err


def test_a_node_is_known_by_its_first_digits_where_there_is_a_service_to_ask(
    ledgerd: Ledgerd, council: Council, service: FakeService, options: list[object]
) -> None:
    names = ["0123456789ab" + "0" * 52, "0123456789ac" + "0" * 52]

    def gov(request: FakeRequest) -> FakeAnswer | None:
        if not request.path.startswith("/gov/service/nodes?"):
            return council(request)
        return FakeAnswer(200, {}, json.dumps({"value": [{"nodeId": name} for name in names]}).encode())

    service.nodes[0].behaviour = gov
    proposing = ("gov", "propose", "remove-node", "--print", *options)
    for first in ("0123456789ab", "0123456789ab0000...", names[0]):
        ran = ledgerd(*proposing, "--node-id", first)
        assert json.loads(ran.out) == {"actions": [{"name": "remove_node", "args": {"node_id": names[0]}}]}
    for first, told in (("0123456789", "the names of 2 nodes begin with 0123456789"), ("ffffffff", "no node's name begins with ffffffff")):
        ran = ledgerd(*proposing, "--node-id", first)
        assert (ran.status, ran.out, told in ran.err) == (2, "", True), ran


def test_who_signs_must_be_said(ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path) -> None:
    ran = ledgerd("gov", "propose", "trigger-snapshot", *options)
    assert (ran.status, "which member signs?" in ran.err) == (2, True)
    certificate = files(ALICE, tmp_path)[:2]
    ran = ledgerd("gov", "propose", "trigger-snapshot", *certificate, *options)
    assert (ran.status, "--prepare" in ran.err) == (2, True)
    assert service.nodes[0].requests == []


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("/dev/zero", "key", "is no certificate and no key"),
        ("cert", "/dev/zero", "is no certificate and no key"),
        ("key", "key", "is not a certificate in PEM"),
        ("odd", "key", "is not a certificate in PEM"),
        ("cert", "cert", "is not a private key in PEM"),
        ("cert", "other", "is not the key of the certificate"),
        ("ed25519", "key", "has no key on P-256, P-384 or P-521"),
    ],
)
def test_files_that_are_not_a_members_are_told(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, certificate: str, key: str, told: str
) -> None:
    _, cert, _, private = files(ALICE, tmp_path)
    places = {"cert": cert, "key": private, "other": tmp_path / "other", "ed25519": tmp_path / "ed25519", "odd": tmp_path / "odd"}
    (tmp_path / "other").write_bytes(PRIVATE)
    (tmp_path / "ed25519").write_text(of_ed25519())
    (tmp_path / "odd").write_text(of_no_version(ALICE.pem))
    signing = ["--member-cert", places.get(certificate, certificate), "--member-key", places.get(key, key)]
    ran = ledgerd("gov", "propose", "trigger-snapshot", *signing, *options)
    assert (ran.status, ran.out, told in ran.err) == (2, "", True), ran.err
    assert service.nodes[0].requests == []


def of_ed25519() -> str:
    """A certificate of a key with which members cannot sign."""
    name, now = x509.Name([]), datetime.now(UTC)
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, None)
    return made.public_bytes(Encoding.PEM).decode()


def test_docs_name_every_command() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert all(f"## ledgerd gov propose {name}\n" in text for name in ACTIONS)
