"""A service whose genesis has CCF's own default constitution, unmodified: members vote by it, and its actions do what they say.

It is read from a ledger that CCF wrote; nothing of it is in this repository. What each action writes, against ours:
`tests/governance/constitution/test_same_as_ccf.py`.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ledgerd.governance import constitution, tables
from ledgerd.ledger import chunks
from ledgerd.ledger.entry import read_public
from support.cluster import Identity, make_identity
from support.constitution import text_of
from support.governed import id_of
from support.members import node_id
from support.vectors import vectors
from support.voting import NO, Consortium, code, opening, shown


@pytest.fixture(scope="module")
def text() -> str:
    folder = vectors("ccf-ledgers", "cose_flipflop_service", "ledger")
    ((name, parsed), *_) = chunks.arrange([path.name for path in folder.iterdir()])
    found = read_public(next(chunks.parse((folder / name).read_bytes(), parsed))).writes[tables.CONSTITUTION][tables.SINGLETON]
    assert found is not None
    loaded: str = json.loads(found)
    return loaded


@pytest.fixture(scope="module")
def consortium(text: str) -> Consortium:
    made = Consortium(constitution=text)
    made.open()
    return made


def test_it_stands_as_it_was_given(consortium: Consortium, text: str) -> None:
    assert consortium.row(tables.CONSTITUTION) == text


def test_more_than_half_decide_and_a_no_rejects_nothing(consortium: Consortium) -> None:
    first, second, third = consortium.members
    name = shown(consortium.propose(first, ("trigger_ledger_chunk", None)))["proposalId"]
    for who in (second, third):
        assert shown(consortium.vote(who, name, NO))["proposalState"] == "Open"
    assert consortium.read(f"members/proposals/{name}")["ballotCount"] == 2


def test_what_it_does_not_know_is_refused_in_its_words(consortium: Consortium) -> None:
    answer = consortium.propose(consortium.members[0], ("make_me_rich", {}))
    assert code(answer) == (400, "ProposalFailedToValidate")


NEWCOMER, USER = make_identity("newcomer"), make_identity("user")
ENDPOINT = {
    "js_module": "a.js",
    "js_function": "get",
    "forwarding_required": "never",
    "authn_policies": ["user_cert"],
    "mode": "readonly",
    "openapi": {},
}
BUNDLE = {
    "metadata": {"endpoints": {"/a": {"get": ENDPOINT}}},
    "modules": [{"name": "a.js", "module": "export function get() { return { body: 'a' }; }"}],
}
ACTIONS: list[tuple[str, Any]] = [
    ("set_member", {"cert": NEWCOMER.pem, "member_data": {"name": "newcomer"}}),
    ("set_member_data", {"member_id": id_of(NEWCOMER), "member_data": {"name": "other"}}),
    ("remove_member", {"member_id": id_of(NEWCOMER)}),
    ("set_user", {"cert": USER.pem, "user_data": {"desk": 1}}),
    ("set_user_data", {"user_id": id_of(USER), "user_data": {"desk": 2}}),
    ("set_js_app", {"bundle": BUNDLE, "disable_bytecode_cache": False}),
    ("set_js_runtime_options", {"max_heap_bytes": 1 << 26, "max_stack_bytes": 1 << 20, "max_execution_time_ms": 1000}),
    ("refresh_js_app_bytecode_cache", None),
    ("remove_js_app", None),
    ("remove_user", {"user_id": id_of(USER)}),
    ("set_ca_cert_bundle", {"name": "roots", "cert_bundle": USER.pem}),
    ("remove_ca_cert_bundle", {"name": "roots"}),
    ("set_jwt_issuer", {"issuer": "https://issuer.example", "auto_refresh": False}),
    ("remove_jwt_issuer", {"issuer": "https://issuer.example"}),
    ("set_service_configuration", {"recent_cose_proposals_window_size": 50}),
    ("set_all_nodes_certificate_validity", {"valid_from": "250101000000Z", "validity_period_days": 99}),
    ("trigger_ledger_chunk", None),
    ("add_snp_measurement", {"measurement": "ab" * 48}),
    ("remove_snp_measurement", {"measurement": "ab" * 48}),
]


@pytest.mark.parametrize("action", ACTIONS, ids=[name for name, _ in ACTIONS])
def test_its_actions_work(consortium: Consortium, action: tuple[str, Any]) -> None:
    name, args = action
    if name == "set_all_nodes_certificate_validity":
        serving: Any = consortium.host.enclave._serving
        args = {**args, "valid_from": f"{_day(serving.status.now_ms)}000000Z"}
    first, second, _ = consortium.members
    wanted = {"name": name} if args is None else {"name": name, "args": args}
    proposal = shown(consortium.send(first, "proposal", "proposals:create", {"actions": [wanted]}))["proposalId"]
    for who in (first, second):
        answer = consortium.vote(who, proposal)
    assert shown(answer)["proposalState"] == "Accepted"
    consortium.cluster.run(0.2)
    assert consortium.host.stopped is None


def _day(now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%y%m%d")


def test_by_it_a_node_is_trusted_and_leaves_and_another_constitution_follows(consortium: Consortium) -> None:
    joiner = consortium.cluster.join("n1")
    consortium.cluster.until(lambda: "Pending" in [node["status"] for node in consortium.read("service/nodes")["value"]])
    consortium.cluster.run(0.3)
    serving: Any = consortium.host.enclave._serving
    args = {"node_id": node_id(joiner), "valid_from": f"{_day(serving.status.now_ms)}000000Z"}
    assert shown(consortium.carry(("transition_node_to_trusted", args)))["proposalState"] == "Accepted"
    consortium.cluster.until(lambda: joiner.notices.get("open") == "yes")
    consortium.cluster.run(0.5)
    assert shown(consortium.carry(("remove_node", {"node_id": node_id(joiner)})))["proposalState"] == "Accepted"
    consortium.cluster.until(lambda: "retired" in joiner.notices)
    ours = consortium.carry(("set_constitution", {"constitution": text_of(constitution.BY_VOTE)}))
    assert shown(ours)["proposalState"] == "Accepted"
    assert code(consortium.propose(consortium.members[0], ("make_me_rich", {}))) == (400, "ProposalFailedToValidate")


def test_with_a_rule_that_accepts_at_once_as_in_ccfs_sandbox_one_member_is_enough(text: str) -> None:
    rule = 'export function resolve() { return "Accepted"; }'
    consortium = Consortium(constitution=text.replace("export function resolve(", "function resolveByMajority(") + rule, active=1)
    assert shown(consortium.propose(consortium.members[0], opening(consortium)))["proposalState"] == "Accepted"
    assert consortium.read("service/info")["status"] == "Open"


# As in CCF's sample of roles: the members say what a role may do, and which roles a user has; the application asks.
ROLES = """
actions.set(
  "set_role_definition",
  new Action(
    (args) => {
      checkType(args.role, "string", "role");
      checkType(args.actions, "array", "actions");
    },
    (args) => {
      const may = ccf.kv[`public:programmability.roles.${args.role}`];
      may.clear();
      for (const action of args.actions) may.set(ccf.jsonCompatibleToBuf(action), new ArrayBuffer(8));
    },
  ),
);
"""
ROLES_APP = """
const may = (roles, action) =>
  roles.some((role) => ccf.kv[`public:programmability.roles.${role}`].has(ccf.jsonCompatibleToBuf(action)));
export function get(request) {
  const action = `/${request.url.split("/")[2]}/read`;
  return may(request.caller.data?.roles ?? [], action) ? { body: { payload: action } } : { statusCode: 403 };
}
"""


def test_members_say_what_a_role_may_do_by_an_action_of_their_own(text: str) -> None:
    consortium = Consortium(constitution=text + ROLES)
    consortium.open()
    reader, other = make_identity("reader"), make_identity("other")
    endpoints = {path: {"get": {**ENDPOINT, "js_function": "get"}} for path in ("/content", "/more")}
    app = {"metadata": {"endpoints": endpoints}, "modules": [{"name": "a.js", "module": ROLES_APP}]}
    users = [("set_user", {"cert": reader.pem, "user_data": {"roles": ["reader"]}}), ("set_user", {"cert": other.pem})]
    assert shown(consortium.carry(*users, ("set_js_app", {"bundle": app})))["proposalState"] == "Accepted"

    def asked(who: Identity | None, path: str) -> int:
        status: int = consortium.cluster.client(consortium.host, who).ask("GET", f"/app/{path}").status
        return status

    def define(**roles: list[str]) -> None:
        actions = [("set_role_definition", {"role": role, "actions": actions}) for role, actions in roles.items()]
        assert shown(consortium.carry(*actions))["proposalState"] == "Accepted"

    assert (asked(reader, "content"), asked(other, "content"), asked(None, "content")) == (403, 403, 401)
    define(reader=["/content/read"])
    assert (asked(reader, "content"), asked(reader, "more"), asked(other, "content")) == (200, 403, 403)
    define(reader=[])
    assert asked(reader, "content") == 403
    define(reader=["/content/read"], editor=["/content/read", "/more/read"])
    assert shown(consortium.carry(("set_user_data", {"user_id": id_of(other), "user_data": {"roles": ["editor"]}})))
    assert (asked(reader, "content"), asked(reader, "more")) == (200, 403)
    assert (asked(other, "content"), asked(other, "more")) == (200, 200)
    refused = consortium.propose(consortium.members[0], ("set_role_definition", {"role": 1, "actions": []}))
    assert code(refused) == (400, "ProposalFailedToValidate")
