"""What is refused, and what is said of it: which action, at which position, which argument, what was expected, what was given."""

from typing import Any

import pytest

from ledgerd.governance import constitution, tables
from support.consortium import (
    ALICE,
    BOB,
    CAROL,
    EC_PEM,
    ERIN,
    GONE,
    NEVER,
    NITRO_ROOT,
    OTHER_PCR0,
    OTHER_ROOT,
    PCR1,
    PCR2,
    PENDING,
    RETIRED,
    RSA_PEM,
    SERVICE,
    STRANGER,
    THIS,
    TRUSTED,
    json_of,
    key,
    member_id,
    service,
)
from support.constitution import SINGLETON, Constitution, Refused, Tables, changes, text_of, with_rows
from support.proposed_actions import BUNDLE, CASES, CERTIFIED_KEY, EC_KEY, ENDPOINT, ISSUER, METADATA, OPTIONS, RSA_KEY, TCB, proposal

OURS = Constitution(text_of(constitution.BY_VOTE))
TEXT = "x" * 70
SHOWN = f'a string of 70 characters that begins "{"x" * 60}"'
PCRS = {"pcr0": OTHER_PCR0, "pcr1": PCR1, "pcr2": PCR2}


def bundle(modules: Any = BUNDLE["modules"], path: str = "/a", method: str = "get", **endpoint: Any) -> dict[str, Any]:
    return {"bundle": {"metadata": {"endpoints": {path: {method: {**ENDPOINT, **endpoint}}}}, "modules": modules}}


def keys(*jwks: dict[str, Any]) -> dict[str, Any]:
    return {"issuer": ISSUER, "jwks": {"keys": list(jwks)}}


ONE_CERTIFICATE = "expected exactly one X.509 certificate in PEM"
HEX_96 = "expected a string of 96 lower-case hexadecimal digits"
WHERE = 'bundle.metadata.endpoints["/a"].get'

# Arguments that do not fit, and the sentence after "NAME at position 0: ".
MALFORMED: tuple[tuple[str, Any, str], ...] = (
    ("set_constitution", {"constitution": 1}, "constitution: expected the text of a constitution, in JavaScript, got the number 1"),
    ("set_constitution", {"constitution": "let x;"}, "it exports no function validate"),
    ("set_member", None, "args: expected an object with cert, encryption_pub_key, member_data, recovery_role, got nothing"),
    ("set_member", {"cert": TEXT}, f"cert: {ONE_CERTIFICATE}, got {SHOWN}"),
    ("set_member", {"cert": ERIN.pem, "member_data": 1}, "member_data: expected an object, got the number 1"),
    (
        "set_member",
        {"cert": ERIN.pem, "recovery_role": "Boss", "encryption_pub_key": RSA_PEM},
        'recovery_role: expected one of "NonParticipant", "Participant", "Owner", got the string "Boss"',
    ),
    ("set_member", {"cert": ERIN.pem, "recovery_role": "Owner"}, "recovery_role: only a member with an encryption_pub_key has one"),
    (
        "set_member",
        {"cert": ERIN.pem, "encryption_pub_key": "no"},
        'encryption_pub_key: expected an RSA public key in PEM, got the string "no"',
    ),
    ("remove_member", {"member_id": "AB" * 32}, "member_id: expected the id of a member, 64 lower-case hexadecimal digits, got"),
    ("set_member_data", {"member_id": member_id(ALICE)}, "member_data: expected an object, or null, got nothing"),
    ("set_user", {"cert": STRANGER.pem * 2}, f"cert: {ONE_CERTIFICATE}, got a string of"),
    ("set_user", {"cert": STRANGER.pem, "data": {}}, "data: there is no such argument, but cert, user_data"),
    ("remove_user", {"user_id": None}, "user_id: expected the id of a user, 64 lower-case hexadecimal digits, got null"),
    (
        "set_user_data",
        {"user_id": "a", "user_data": {}},
        'user_id: expected the id of a user, 64 lower-case hexadecimal digits, got the string "a"',
    ),
    (
        "set_recovery_threshold",
        {"recovery_threshold": 255},
        "recovery_threshold: expected a whole number from 1 to 254, got the number 255",
    ),
    (
        "set_recovery_threshold",
        {"recovery_threshold": 1.5},
        "recovery_threshold: expected a whole number from 1 to 254, got the number 1.5",
    ),
    ("trigger_recovery_shares_refresh", {"now": True}, "now: there is no such argument, but none"),
    ("trigger_ledger_rekey", [], "args: expected no arguments, got a list of 0"),
    ("trigger_ledger_chunk", "x", 'args: expected no arguments, got the string "x"'),
    ("trigger_snapshot", {"x": 1}, "x: there is no such argument"),
    ("transition_service_to_open", {}, f"next_service_identity: {ONE_CERTIFICATE}, got nothing"),
    ("assert_service_identity", {"service_identity": STRANGER.pem}, "service_identity: this service has another certificate"),
    (
        "set_service_configuration",
        {"recent_cose_proposals_window_size": 10001},
        "recent_cose_proposals_window_size: expected a whole number from 1 to 10000, got the number 10001",
    ),
    (
        "set_service_configuration",
        {"reconfiguration_type": "TwoTransaction"},
        'reconfiguration_type: expected one of "OneTransaction", got the string "TwoTransaction"',
    ),
    (
        "set_service_configuration",
        {"maximum_node_certificate_validity_days": 9},
        "maximum_node_certificate_validity_days: there is no such argument",
    ),
    ("set_js_app", {"bundle": {}}, "bundle.metadata: expected an object with endpoints, got nothing"),
    ("set_js_app", bundle(mode="fast"), f'{WHERE}.mode: expected one of "readwrite", "readonly", "historical", got the string "fast"'),
    ("set_js_app", bundle(authn_policies=["nobody"]), f'{WHERE}.authn_policies[0]: expected one of "user_cert"'),
    (
        "set_js_app",
        bundle(authn_policies=[{"all_of": []}]),
        f"{WHERE}.authn_policies[0].all_of: expected a list of 1 or more, got a list of 0",
    ),
    ("set_js_app", bundle(path="a"), 'bundle.metadata.endpoints: a name in it is the string "a", expected a path that begins with /'),
    ("set_js_app", bundle(method="brew"), 'bundle.metadata.endpoints["/a"]: a name in it is the string "brew", expected an HTTP method'),
    ("set_js_app", bundle(js_module="b.js"), "bundle.metadata.endpoints: GET /a is in module b.js, but there are src/app.js"),
    ("set_js_app", bundle([{"name": "src/app.js", "module": ""}] * 2), "bundle.modules: src/app.js is there twice"),
    ("set_js_app", bundle([{"name": "/x", "module": ""}]), "bundle.modules[0].name: expected a path that does not begin with /, got"),
    (
        "set_js_app",
        bundle([{"name": "src/app.js", "module": "export const f = ;"}]),
        "bundle.modules: module src/app.js cannot be loaded: SyntaxError",
    ),
    ("set_js_app", {**bundle(), "disable_bytecode_cache": "yes"}, 'disable_bytecode_cache: expected true or false, got the string "yes"'),
    ("remove_js_app", {"all": True}, "all: there is no such argument, but none"),
    ("refresh_js_app_bytecode_cache", 1, "args: expected no arguments, got the number 1"),
    ("set_js_runtime_options", {**OPTIONS, "max_heap_bytes": 0}, "max_heap_bytes: expected a whole number, 1 or more, got the number 0"),
    (
        "set_ca_cert_bundle",
        {"name": "x", "cert_bundle": "no"},
        'cert_bundle: expected one or more X.509 certificates in PEM, got the string "no"',
    ),
    ("remove_ca_cert_bundle", {"name": ""}, 'name: expected a string that is not empty, got the string ""'),
    (
        "set_jwt_issuer",
        {**METADATA, "issuer": "issuer"},
        "issuer: expected a URL that begins with https:// and has no query and no fragment, got",
    ),
    (
        "set_jwt_issuer",
        {**METADATA, "issuer": "https://a?b"},
        "issuer: expected a URL that begins with https:// and has no query and no fragment",
    ),
    ("set_jwt_issuer", {"issuer": ISSUER, "auto_refresh": True}, "ca_cert_bundle_name: expected where auto_refresh is true, got nothing"),
    (
        "set_jwt_public_signing_keys",
        keys({"kid": "a", "kty": "oct"}),
        'jwks.keys[0].kty: expected one of "RSA", "EC", got the string "oct"',
    ),
    ("set_jwt_public_signing_keys", keys({"kid": "a", "kty": "EC"}), "jwks.keys[0]: expected x5c, or crv, x, y, got kid, kty"),
    ("set_jwt_public_signing_keys", keys(RSA_KEY, RSA_KEY), 'jwks.keys[1].kid: the string "one" is there twice'),
    (
        "set_jwt_public_signing_keys",
        keys({**RSA_KEY, "alg": "ES256"}),
        'jwks.keys[0].alg: a key of this type has RS256, got the string "ES256"',
    ),
    ("set_jwt_public_signing_keys", keys({**RSA_KEY, "x": "AA"}), "jwks.keys[0].x: a key of type RSA has none"),
    (
        "set_jwt_public_signing_keys",
        keys({**RSA_KEY, "n": "AAAA"}),
        "jwks.keys[0].n: expected a modulus of 2048 bits or more, got about 24",
    ),
    ("set_jwt_public_signing_keys", keys({**EC_KEY, "y": "AAAA"}), "jwks.keys[0].y: expected 32 bytes for P-256, got 3"),
    ("set_jwt_public_signing_keys", keys({**EC_KEY, "y": EC_KEY["x"]}), "jwks.keys[0]: crv, x, y are no EC public key"),
    (
        "set_jwt_public_signing_keys",
        keys({**CERTIFIED_KEY, "x5c": ["AAAA"]}),
        "jwks.keys[0].x5c[0]: expected a certificate's DER in base64, got",
    ),
    ("remove_jwt_issuer", {"issuer": 1}, "issuer: expected a string that is not empty, got the number 1"),
    ("cleanup_legacy_jwt_records", {"ensure_new_records_exist": 1}, "ensure_new_records_exist: expected true or false, got the number 1"),
    ("add_nitro_measurement", {**PCRS, "pcr2": "A0" * 48}, f"pcr2: {HEX_96}, got a string of 96 characters that begins"),
    ("add_nitro_measurement", {**PCRS, "pcr0": "0" * 96}, "pcr0: is zero, as only a debug enclave's is, whose memory can be read"),
    ("remove_nitro_measurement", {"pcr0": OTHER_PCR0}, f"pcr1: {HEX_96}, got nothing"),
    ("add_nitro_root", {"root": OTHER_ROOT.pem + NITRO_ROOT.pem}, f"root: {ONE_CERTIFICATE}, got a string of"),
    (
        "remove_nitro_root",
        {"root_id": "x"},
        'root_id: expected the SHA-256 of a root\'s DER, 64 lower-case hexadecimal digits, got the string "x"',
    ),
    ("add_snp_measurement", {"measurement": "ab"}, f'measurement: {HEX_96}, got the string "ab"'),
    ("remove_snp_measurement", {}, "measurement: expected a string, got nothing"),
    (
        "add_snp_host_data",
        {"host_data": "cd" * 32, "security_policy": "x"},
        "security_policy: has the SHA-256 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, not host_data",
    ),
    ("remove_snp_host_data", {}, "host_data: expected a string, got nothing"),
    (
        "add_snp_uvm_endorsement",
        {"did": "x509", "feed": "f", "svn": "1"},
        "did: expected the did of a publisher, such as did:x509:..., got",
    ),
    ("add_snp_uvm_endorsement", {"did": "did:x", "feed": "f", "svn": 1}, "svn: expected a whole number, as a string, got the number 1"),
    ("remove_snp_uvm_endorsement", {"did": "did:x"}, "feed: expected a string, got nothing"),
    (
        "set_snp_minimum_tcb_version",
        {"cpuid": "00A00F11", "tcb_version": TCB},
        "cpuid: expected a string of 8 lower-case hexadecimal digits, got",
    ),
    (
        "set_snp_minimum_tcb_version",
        {"cpuid": "00a00f11", "tcb_version": {**TCB, "snp": 256}},
        "tcb_version.snp: expected a whole number from 0 to 255",
    ),
    (
        "set_snp_minimum_tcb_version_hex",
        {"cpuid": "00a00f11", "tcb_version": "0"},
        "tcb_version: expected a string of 16 lower-case hexadecimal digits",
    ),
    ("remove_snp_minimum_tcb_version", {"cpuid": 1}, "cpuid: expected a string, got the number 1"),
    ("set_minimum_version", {"version": "1.02.3"}, 'version: expected a version such as 1.2.0, got the string "1.02.3"'),
    ("set_node_data", {"node_id": NEVER, "node_data": 1}, f"node_id: there is no node {NEVER}; there are {TRUSTED[:16]}... (Trusted)"),
    ("transition_node_to_trusted", {"node_id": NEVER}, f"node_id: there is no node {NEVER}; there are"),
    ("transition_node_to_trusted", {"node_id": PENDING, "valid_from": "soon"}, "valid_from: expected a time such as 20261231235959Z or"),
    ("remove_node", {"node_id": NEVER}, f"node_id: there is no node {NEVER}; there are"),
    (
        "set_node_certificate_validity",
        {"node_id": TRUSTED, "validity_period_days": 0},
        "validity_period_days: expected a whole number, 1 or more",
    ),
    (
        "set_all_nodes_certificate_validity",
        {"validity_period_days": "9"},
        "validity_period_days: expected a whole number, 1 or more, got the string",
    ),
    ("set_service_certificate_validity", {"valid_from": 20270101}, "valid_from: expected a time such as 20261231235959Z or"),
    ("set_proposal_policy", {"lifetime_hours": 0}, "lifetime_hours: expected a whole number from 1 to 87600, got the number 0"),
    ("set_proposal_policy", {"rejection": "always"}, 'rejection: expected one of "never", "majority", got the string "always"'),
    (
        "add_node_code",
        {"code_id": "x"},
        "there is no such action: this service has no SGX nodes; use add_nitro_measurement or add_snp_measurement",
    ),
    ("constructor", {}, "there is no such action: there are set_member, "),
    ("__proto__", {}, "there is no such action: there are set_member, "),
)


@pytest.mark.parametrize(("name", "args", "sentence"), MALFORMED, ids=[f"{position}-{row[0]}" for position, row in enumerate(MALFORMED)])
def test_what_does_not_fit_is_refused_before_anybody_votes(name: str, args: Any, sentence: str) -> None:
    refused = OURS.validate(proposal((name, args)), service())
    assert refused is not None and refused.startswith(f"{name} at position 0: {sentence}"), refused


def edited(**rows: Any) -> Tables:
    return with_rows(service(), **rows)


def status(of: str) -> Tables:
    return edited(SERVICE_INFO={SINGLETON: json_of({"cert": SERVICE.pem, "status": of})})


SHARES = "while the service recovers from a disaster"

# Well-formed, but the tables do not allow it: what they are, and what is said when it is applied.
FORBIDDEN: tuple[tuple[str, Any, Tables, str], ...] = (
    (
        "remove_member",
        {"member_id": member_id(BOB)},
        with_rows(service(), SERVICE_CONFIG={SINGLETON: json_of({"recovery_threshold": 2})}),
        "1 members would be left to recover the service, and it takes 2 (recovery_threshold)",
    ),
    (
        "remove_member",
        {"member_id": member_id(ALICE)},
        edited(MEMBER_INFO={key(BOB): None, key(CAROL): None}),
        f"member {member_id(ALICE)} is the only active one",
    ),
    ("set_member_data", {"member_id": member_id(STRANGER), "member_data": {}}, service(), f"there is no member {member_id(STRANGER)}"),
    ("set_user_data", {"user_id": member_id(STRANGER), "user_data": {}}, service(), f"there is no user {member_id(STRANGER)}"),
    ("set_recovery_threshold", {"recovery_threshold": 3}, service(), "recovery_threshold: 3 are more than the 2 active members"),
    ("set_service_configuration", {"recovery_threshold": 3}, service(), "recovery_threshold: 3 are more than the 2 active members"),
    (
        "set_recovery_threshold",
        {"recovery_threshold": 2},
        edited(MEMBER_INFO={key(BOB): json_of({"status": "Active", "recovery_role": "NonParticipant"})}),
        "recovery_threshold: 2 are more than the 1 active members",
    ),
    *(
        (name, args, status(state), SHARES)
        for state in ("Recovering", "WaitingForRecoveryShares")
        for name, args in (
            ("set_member", {"cert": BOB.pem}),
            ("set_member", {"cert": ERIN.pem, "encryption_pub_key": RSA_PEM}),
            ("remove_member", {"member_id": member_id(BOB)}),
            ("set_recovery_threshold", {"recovery_threshold": 2}),
            ("set_service_configuration", {"recovery_threshold": 2}),
            ("trigger_recovery_shares_refresh", None),
            ("trigger_ledger_rekey", None),
        )
    ),
    (
        "transition_service_to_open",
        {"next_service_identity": SERVICE.pem},
        status("Recovering"),
        "previous_service_identity: a service that recovers",
    ),
    ("set_node_certificate_validity", {"node_id": PENDING}, service(), f"node {PENDING} is Pending; only Trusted ones have certificates"),
    (
        "set_node_certificate_validity",
        {"node_id": TRUSTED, "validity_period_days": 366},
        service(),
        "validity_period_days: 366 are more than the 365",
    ),
    ("set_service_certificate_validity", {"validity_period_days": 301}, service(), "validity_period_days: 301 are more than the 300"),
    (
        "transition_node_to_trusted",
        {"node_id": RETIRED},
        service(),
        f"node {RETIRED} is Retired; only a node that waits (Pending) can be trusted",
    ),
    ("remove_nitro_measurement", PCRS, service(), f"the measurement {OTHER_PCR0}:{PCR1}:{PCR2} is not accepted now; accepted are a0a0"),
    (
        "remove_nitro_root",
        {"root_id": "ab" * 32},
        service(),
        f"the root {'ab' * 32} is not accepted now; accepted are {member_id(NITRO_ROOT)[:60]}",
    ),
    ("remove_nitro_root", {"root_id": member_id(NITRO_ROOT)}, service(), f"{member_id(NITRO_ROOT)} is the only root"),
    ("remove_snp_measurement", {"measurement": "x"}, service(), "the measurement x is not accepted now"),
    ("remove_snp_host_data", {"host_data": "x"}, service(), "the host data x is not accepted now"),
    (
        "remove_snp_uvm_endorsement",
        {"did": "did:x", "feed": "f"},
        service(),
        "the feed f of did:x is not accepted now; of it are accepted none",
    ),
    ("remove_snp_minimum_tcb_version", {"cpuid": "00000000"}, service(), "a firmware for the processor 00000000 is not accepted now"),
    ("set_jwt_issuer", {**METADATA, "ca_cert_bundle_name": "x"}, service(), "ca_cert_bundle_name: there is no bundle x; there are roots"),
    ("set_jwt_public_signing_keys", {"issuer": "https://x", "jwks": {"keys": []}}, service(), "issuer: https://x is not known"),
    (
        "cleanup_legacy_jwt_records",
        {"ensure_new_records_exist": True},
        service(),
        "the table public:ccf.gov.jwt.public_signing_keys_metadata_v2 is empty",
    ),
    *(
        (
            "set_minimum_version",
            {"version": version},
            {**service(), "public:ccf.gov.ledgerd.minimum_version": {SINGLETON: b'{"version":"1.10.2"}'}},
            f"version: {version} is below 1.10.2, and the floor only rises",
        )
        for version in ("1.9.9", "1.10.1", "0.99.99")
    ),
)


@pytest.mark.parametrize(
    ("name", "args", "before", "sentence"), FORBIDDEN, ids=[f"{position}-{row[0]}" for position, row in enumerate(FORBIDDEN)]
)
def test_what_the_tables_do_not_allow_is_not_applied(name: str, args: Any, before: Tables, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        OURS.apply(proposal(("trigger_snapshot", None), (name, args)), before, THIS)
    assert str(refused.value).startswith(f"{name} at position 1: ") and sentence in str(refused.value), refused.value


def test_every_action_is_tried_with_good_and_with_bad_arguments() -> None:
    names = set(OURS.eval("[...actions.keys()]"))
    assert names == {case.name for case in CASES} | {"remove_nitro_root"}
    assert names <= {row[0] for row in MALFORMED}


def test_all_that_is_wrong_is_said_at_once() -> None:
    wanted = {
        "actions": [
            7,
            {"name": "set_user", "args": {"cert": 1, "x": 2}},
            {"args": {}},
            {"name": "trigger_snapshot"},
            {"name": "remove_node"},
        ]
    }
    refused = OURS.validate(wanted, service())
    assert refused is not None and refused.split("; ") == [
        "an action without a name at position 0: expected an object with name and args, got the number 7",
        "set_user at position 1: x: there is no such argument, but cert, user_data",
        "set_user at position 1: cert: expected exactly one X.509 certificate in PEM, got the number 1",
        refused.split("; ")[3],
        "remove_node at position 4: args: expected an object with node_id, got nothing",
    ]
    assert refused.split("; ")[3].startswith("an action without a name at position 2: there is no such action: there are set_member, ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "a proposal is a JSON object, this is no JSON: "),
        ("null", "a proposal is a JSON object with a list of actions, got null"),
        ("[]", "a proposal is a JSON object with a list of actions, got a list of 0"),
        ("{}", "a proposal is a JSON object with a list of actions, got actions: nothing"),
        ('{"actions": {}}', "a proposal is a JSON object with a list of actions, got actions: an empty object"),
        ('{"actions": [], "expires_at": "now"}', 'expires_at: expected a whole number from 1 to 9999999999, got the string "now"'),
        (
            '{"actions": [], "expires_at": 1800000000}',
            "expires_at: 1800000000 (2027-01-15T08:00:00Z) has passed already; the service's last signature is of 2027-01-15T08:00:00Z",
        ),
    ],
)
def test_what_is_no_proposal_is_refused(text: str, sentence: str) -> None:
    refused = OURS.validate(text, service())
    assert refused is not None and refused.startswith(sentence)


def test_an_encryption_key_is_rsa_and_long_enough() -> None:
    refused = OURS.validate(proposal(("set_member", {"cert": ERIN.pem, "encryption_pub_key": EC_PEM})), service())
    assert refused is not None and "encryption_pub_key: expected an RSA public key in PEM, got" in refused


def test_one_of_two_roots_may_go() -> None:
    before = edited(NITRO_ROOTS={key(OTHER_ROOT): OTHER_ROOT.pem.encode()})
    applied = OURS.apply(proposal(("remove_nitro_root", {"root_id": member_id(NITRO_ROOT)})), before, THIS)
    assert changes(before, applied.tables) == {tables.NITRO_ROOTS: {key(NITRO_ROOT): None}}


@pytest.mark.parametrize("version", ["1.10.2", "1.10.3", "1.11.0", "2.0.0"])
def test_the_floor_rises(version: str) -> None:
    before = {**service(), "public:ccf.gov.ledgerd.minimum_version": {SINGLETON: b'{"version":"1.10.2"}'}}
    after = OURS.apply(proposal(("set_minimum_version", {"version": version})), before, THIS).tables
    assert after["public:ccf.gov.ledgerd.minimum_version"] == {SINGLETON: json_of({"version": version})}


def test_who_left_before_may_leave_again() -> None:
    assert OURS.validate(proposal(("remove_node", {"node_id": GONE})), service()) is None


def test_actions_of_one_proposal_follow_each_other() -> None:
    wanted = proposal(("set_user", {"cert": STRANGER.pem}), ("set_user_data", {"user_id": member_id(STRANGER), "user_data": {"a": 1}}))
    assert OURS.validate(wanted, service()) is None
    after = OURS.apply(wanted, service(), THIS).tables
    assert after[tables.USER_INFO][key(STRANGER)] == b'{"user_data":{"a":1}}'
