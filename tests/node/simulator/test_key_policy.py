"""The evaluation of key policies, by the rules that IAM's documentation states."""

import json
from typing import Any

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.simulator.key_policy import KeyPolicy, Request

ROLE = "arn:aws:iam::111122223333:role/node"
OTHER = "arn:aws:iam::111122223333:role/other"
KEY = "arn:aws:kms:eu-central-1:111122223333:key/a"
IMAGE = "kms:RecipientAttestation:ImageSha384"


def statement(effect: str = "Allow", **change: Any) -> dict[str, Any]:
    found = {"Effect": effect, "Principal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*", **change}
    return {name: value for name, value in found.items() if value is not None}


def policy(*statements: dict[str, Any], of_key: bool = True) -> KeyPolicy:
    return KeyPolicy({"Version": "2012-10-17", "Statement": list(statements)}, of_key=of_key)


def request(action: str = "kms:Decrypt", principal: str = ROLE, **context: Any) -> Request:
    return Request(
        frozenset({principal}), principal.split(":")[4], action, KEY, {name.replace("__", ":"): value for name, value in context.items()}
    )


def allowed(found: KeyPolicy, asked: Request, iam: KeyPolicy | None = None) -> bool:
    return found.decide(asked, iam).allowed


def test_what_no_statement_allows_is_refused() -> None:
    assert allowed(policy(statement()), request())
    assert not allowed(policy(statement()), request("kms:Encrypt"))
    assert not allowed(policy(statement()), request(principal=OTHER))


def test_an_explicit_deny_wins_wherever_it_stands() -> None:
    for order in ((statement(), statement("Deny")), (statement("Deny"), statement())):
        assert not allowed(policy(*order), request())
    assert not allowed(policy(statement(), statement("Deny", Principal="*")), request())
    assert allowed(policy(statement(), statement("Deny", Principal={"AWS": OTHER})), request())


@pytest.mark.parametrize(
    ("actions", "matches"),
    [
        ("kms:*", True),
        ("*", True),
        ("KMS:decrypt", True),
        ("kms:De*", True),
        ("kms:Decryp?", True),
        (["kms:Encrypt", "kms:Decrypt"], True),
        ("kms:Encrypt", False),
        ("kms:Decrypt?", False),
        ("kms.Decrypt", False),
        ("kms:[D]ecrypt", False),
    ],
)
def test_actions_match_with_wildcards_and_whatever_case(actions: Any, matches: bool) -> None:
    assert allowed(policy(statement(Action=actions)), request()) is matches


def test_not_action_is_the_rest() -> None:
    found = policy(statement(Action=None, NotAction=["kms:Encrypt", "kms:Put*"]))
    assert [allowed(found, request(action)) for action in ("kms:Decrypt", "kms:Encrypt", "kms:PutKeyPolicy")] == [True, False, False]


def test_resources_match() -> None:
    assert [allowed(policy(statement(Resource=item)), request()) for item in ("*", KEY, "arn:aws:kms:*:key/*", "arn:aws:kms:*:key/b")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("principal", ["111122223333", "arn:aws:iam::111122223333:root"])
def test_an_account_passes_the_decision_on(principal: str) -> None:
    """AWS's default key policy: the account's own policies decide, whatever we mean the key for."""
    found = policy(statement(Principal={"AWS": principal}, Action="kms:*"))
    mine = policy(statement(Principal=None), of_key=False)
    assert not allowed(found, request())
    assert allowed(found, request(), mine)
    assert not allowed(found, request("kms:Encrypt"), mine)
    assert not allowed(found, request(principal="arn:aws:iam::999999999999:role/node"), mine)
    denying = policy(statement(Principal=None), statement("Deny", Principal=None, Action="*"), of_key=False)
    assert not allowed(found, request(), denying)
    assert not allowed(policy(statement()), request(), denying)
    assert not allowed(policy(statement(), statement("Deny", Principal={"AWS": principal})), request(), mine)


def test_services_are_nobody_here() -> None:
    assert not allowed(policy(statement(Principal={"Service": "s3.amazonaws.com"})), request())


ABSENT: dict[str, Any] = {}
ONE = {"x__a": "One"}
TWO = {"x__a": ("One", "two")}


@pytest.mark.parametrize(
    ("operator", "value", "context", "holds"),
    [
        ("StringEquals", "One", ONE, True),
        ("StringEquals", "one", ONE, False),
        ("StringEquals", ["two", "One"], ONE, True),
        ("StringEquals", "One", ABSENT, False),
        ("StringEqualsIfExists", "One", ABSENT, True),
        ("StringEqualsIfExists", "two", ONE, False),
        ("StringEqualsIgnoreCase", "oNE", ONE, True),
        ("StringNotEquals", "One", ONE, False),
        ("StringNotEquals", "one", ONE, True),
        ("StringNotEquals", ["two", "One"], ONE, False),
        ("StringNotEquals", "One", ABSENT, True),
        ("StringNotEqualsIgnoreCase", "oNE", ONE, False),
        ("StringNotEqualsIgnoreCase", "oNE", ABSENT, True),
        ("StringLike", "O?e", ONE, True),
        ("StringLike", "o*", ONE, False),
        ("StringNotLike", "O*", ONE, False),
        ("StringNotLike", "O*", ABSENT, True),
        ("ArnLike", "O*", ONE, True),
        ("ArnEquals", "On*", ONE, True),
        ("ArnNotLike", "On*", ONE, False),
        ("Bool", "true", {"x__a": "true"}, True),
        ("Bool", True, {"x__a": "true"}, True),
        ("Bool", "true", {"x__a": "false"}, False),
        ("Bool", "true", ABSENT, False),
        ("BoolIfExists", "true", ABSENT, True),
        ("Null", "true", ABSENT, True),
        ("Null", "true", ONE, False),
        ("Null", "false", ONE, True),
        ("Null", False, ABSENT, False),
        ("ForAnyValue:StringEquals", ["two", "three"], TWO, True),
        ("ForAnyValue:StringEquals", "three", TWO, False),
        ("ForAnyValue:StringEquals", "One", ONE, True),
        ("ForAnyValue:StringEquals", "One", ABSENT, False),
        ("ForAllValues:StringEquals", ["two", "One", "x"], TWO, True),
        ("ForAllValues:StringEquals", ["two", "x"], TWO, False),
        ("ForAllValues:StringEquals", "One", ABSENT, True),
        ("ForAnyValue:StringNotEquals", "One", TWO, True),
        ("ForAllValues:StringNotEquals", "One", TWO, False),
        ("ForAnyValue:StringEqualsIfExists", "One", ABSENT, True),
        ("StringEquals", "One", TWO, False),
    ],
)
def test_condition_operators(operator: str, value: Any, context: dict[str, Any], holds: bool) -> None:
    found = policy(statement(Condition={operator: {"X:A": value}}))
    assert allowed(found, request(**context)) is holds


def test_several_keys_must_all_hold() -> None:
    both = policy(statement(Condition={"StringEquals": {"x:a": "1", "x:b": "2"}, "Null": {"x:c": "true"}}))
    assert allowed(both, request(x__a="1", x__b="2"))
    assert not allowed(both, request(x__a="1", x__b="3"))
    assert not allowed(both, request(x__a="1", x__b="2", x__c="3"))


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{",
        "[" * 30_000,
        " " * 40_000,
        {"Statement": []},
        {"Version": "2008-10-17", "Statement": [statement()]},
        {"Version": "2012-10-17", "Statement": []},
        {"Version": "2012-10-17", "Statement": ["x"]},
        {"Version": "2012-10-17", "Statement": [statement()], "More": 1},
        *(
            {"Version": "2012-10-17", "Statement": [item]}
            for item in (
                statement("allow"),
                statement(Principal=None),
                statement(Principal="arn:aws:iam::111122223333:role/x"),
                statement(Principal={"AWS": "arn:aws:iam::111122223333:role/*"}),
                statement(Principal={"Federated": "x"}),
                statement(NotPrincipal={"AWS": ROLE}),
                statement(Action=None),
                statement(Action=[]),
                statement(Action=7),
                statement(NotAction="kms:*"),
                statement(Resource=None),
                statement(Condition=[]),
                statement(Condition={"StringEquals": "x"}),
                statement(Condition={"StringEquals": {}}),
                statement(Condition={"StringEqual": {"x": "y"}}),
                statement(Condition={"NumericLessThan": {"x": "1"}}),
                statement(Condition={"ForSomeValues:StringEquals": {"x": "1"}}),
                statement(Condition={"NullIfExists": {"x": "true"}}),
                statement(Condition={"Null": {"x": "maybe"}}),
                statement(Condition={"Null": {"x": ["true", "false"]}}),
                statement(Condition={"StringEquals": {"x": "${aws:username}"}}),
                statement(Condition={"StringEquals": {"x": 7}}),
            )
        ),
    ],
)
def test_what_is_not_understood_is_an_error_and_never_a_guess(document: Any) -> None:
    with pytest.raises(ConfigurationError):
        KeyPolicy(document)


def test_text_is_read_too() -> None:
    assert allowed(KeyPolicy(json.dumps({"Version": "2012-10-17", "Statement": statement()})), request())


def test_the_pitfall_of_one_deny_with_several_measurements() -> None:
    """Why `ledgerd kms policy` prints a Deny for each PCR: this one lets an image pass that differs in PCR1 only."""
    everybody = statement(Principal="*")
    lax = statement("Deny", Principal="*", Condition={"StringNotEquals": {IMAGE: "aa", "kms:RecipientAttestation:PCR1": "bb"}})
    seen = {IMAGE.replace(":", "__"): "aa", "kms__RecipientAttestation__PCR1": "xx"}
    assert allowed(policy(everybody, lax), request(**seen))
