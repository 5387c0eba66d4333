"""What a constitution may not leave behind: records that every node reads at once, in forms that none can read."""

import json
from typing import Any

import pytest

from ledgerd.enclave.governing.records import problem_with
from ledgerd.governance import tables
from support.voting import Consortium, code, shown

WRITES = """
export function validate(input) { return { valid: true, description: "" }; }
export function resolve() { return "Accepted"; }
export function apply(proposal) {
  for (const { name, key, value } of JSON.parse(proposal).actions) {
    const table = ccf.kv[name];
    const bytes = key === null ? new ArrayBuffer(8) : ccf.strToBuf(key);
    if (value === null) table.delete(bytes); else table.set(bytes, ccf.strToBuf(value));
  }
}
"""


@pytest.fixture(scope="module")
def consortium() -> Consortium:
    return Consortium(constitution=WRITES)


def write(consortium: Consortium, name: str, key: str | None, value: Any) -> Any:
    text = value if value is None or isinstance(value, str) else json.dumps(value)
    body = json.dumps({"actions": [{"name": name, "key": key, "value": text}]}).encode()
    return consortium.send(consortium.members[0], "proposal", "proposals:create", body)


BROKEN: list[tuple[str, str | None, Any]] = [
    (tables.NODE_INFO, "ab" * 32, "no json"),
    (tables.NODE_INFO, "ab" * 32, []),
    (tables.NODE_INFO, "ab" * 32, {"status": "Trusted"}),
    (tables.NODE_ENDORSED_CERTIFICATES, "ab" * 32, "no certificate"),
    (tables.SERVICE_INFO, None, None),
    (tables.SERVICE_INFO, None, {"status": "Open"}),
    (tables.SERVICE_INFO, None, {"status": "Open", "cert": "x", "recovery_count": 0, "current_service_create_txid": "2.1"}),
    (tables.SERVICE_CONFIG, None, {"recent_cose_proposals_window_size": 0}),
    (tables.SERVICE_CONFIG, None, {"recent_cose_proposals_window_size": "many"}),
    (tables.SERVICE_CONFIG, None, {"recovery_threshold": 0}),
    (tables.SERVICE_CONFIG, None, {"recovery_threshold": 1_000_000_000}),
    (tables.SERVICE_CONFIG, None, {"recovery_threshold": "2"}),
    (tables.SERVICE_CONFIG, None, None),
    (tables.SETTINGS, None, {"admission": "whoever"}),
    (tables.SETTINGS, None, None),
    (tables.CONFIGURATION, None, "[]"),
    (tables.CONSTITUTION, None, {}),
    (tables.CONSTITUTION, None, None),
    (tables.MEMBER_INFO, "ab" * 32, {}),
    (tables.MEMBER_INFO, "ab" * 32, '{"status": "\\ud800"}'),
    (tables.MEMBER_CERTS, "ab" * 32, ""),
    (tables.USER_CERTS, "ab" * 32, "PEM"),
    (tables.PROPOSALS_INFO, "ab" * 32, {"state": "Open", "proposer_id": "x", "ballots": {"y": 1}}),
    (tables.COSE_RECENT_PROPOSALS, "x", "1"),
    (tables.FORMER_NODES, "ab" * 32, None),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_a_record_that_no_node_could_read_is_refused_and_the_service_goes_on(consortium: Consortium, number: int) -> None:
    name, key, value = BROKEN[number]
    before = consortium.row(tables.SERVICE_INFO)
    answer = write(consortium, name, key, value)
    assert code(answer) == (500, "InternalError"), (name, answer.body)
    assert name in json.loads(answer.body)["error"]["message"]
    assert consortium.host.stopped is None
    assert consortium.row(tables.SERVICE_INFO) == before


def test_what_only_members_and_applications_read_may_have_any_form(consortium: Consortium) -> None:
    for name in (tables.ENDPOINTS, tables.MODULES, tables.JWT_KEYS, tables.JWT_ISSUERS, "public:ccf.gov.ours"):
        assert shown(write(consortium, name, "GET /x", "no json {"))["proposalState"] == "Accepted"
    consortium.cluster.run(0.5)
    assert consortium.host.stopped is None
    assert consortium.cluster.client(consortium.host).ask("GET", "/node/version").status == 200


def test_what_nodes_write_themselves_is_readable(consortium: Consortium) -> None:
    serving: Any = consortium.host.enclave._serving
    store = serving._replica.store
    names = [name for name in store.names() if name.startswith("public:ccf.gov.")]
    assert tables.NODE_INFO in names
    for name in names:
        for key, value in store.map(name).items():
            assert problem_with(name, key, value) is None, (name, key)
