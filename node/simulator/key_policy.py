"""Evaluates key policies as KMS does, as far as real ones go: a JSON document and one request in, allowed or not out.

Effect, Principal, Action and NotAction, Resource, Condition with the string, ARN, Bool and Null operators, their `IfExists` forms and set
prefixes. An explicit Deny wins; without an Allow the answer is no. A statement that allows an account's root passes the decision on to the
caller's IAM policy. What is not understood (NotPrincipal, numbers, dates, variables) is an error when the policy is read, never a guess.
Source: IAM User Guide, "IAM JSON policy elements" and "Policy evaluation logic"; KMS Developer Guide, "Key policies".
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ledgerd.ledger.errors import ConfigurationError

POLICY_SIZE_BYTES_MAX: Final = 32 << 10  # KMS's own limit

_ACCOUNT: Final = re.compile(r"(?:arn:aws[a-z-]*:iam::)?([0-9]{12})(?::root)?")
_MEMBERS: Final = frozenset({"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "Condition"})


class Request(NamedTuple):
    """What is asked, and by whom.

    Attributes:
        principals: ARNs of the caller: its role, and its session where it has one.
        account: Of the caller.
        action: For example `kms:Decrypt`.
        resource: ARN of the key; `*` where no key is involved.
        context: Condition keys to values; one that does not apply is absent. Several values: a multi-valued key.
    """

    principals: frozenset[str]
    account: str
    action: str
    resource: str
    context: Mapping[str, str | tuple[str, ...]]


class Verdict(NamedTuple):
    """The decision, and the statement that made it (its Sid or number), for people."""

    allowed: bool
    because: str


class _Condition(NamedTuple):
    operator: str  # without prefix and suffix
    quantifier: str  # "", "ForAnyValue", "ForAllValues"
    if_exists: bool
    key: str  # lower case
    values: tuple[str, ...]


class _Statement(NamedTuple):
    name: str
    allows: bool
    principals: tuple[str, ...] | None  # None: in an IAM policy, whose principal is whoever has it
    actions: tuple[str, ...]
    actions_negated: bool
    resources: tuple[str, ...]
    conditions: tuple[_Condition, ...]


class KeyPolicy:
    """A policy, read. Without principals it is an IAM policy.

    Raises: ConfigurationError: It is none, or uses what this does not understand.
    """

    def __init__(self, document: str | Mapping[str, Any], *, of_key: bool = True) -> None:
        if isinstance(document, str):
            if len(document) > POLICY_SIZE_BYTES_MAX:
                raise ConfigurationError(f"a policy of {len(document)} characters; KMS takes {POLICY_SIZE_BYTES_MAX}")
            try:
                document = json.loads(document)
            except (ValueError, RecursionError):
                raise ConfigurationError("the policy is not JSON") from None
        if not isinstance(document, Mapping) or document.get("Version") != "2012-10-17":
            raise ConfigurationError('the policy is no object with "Version": "2012-10-17"')
        unknown = document.keys() - {"Version", "Id", "Statement"}
        statements = document.get("Statement")
        statements = [statements] if isinstance(statements, Mapping) else statements
        if unknown or not isinstance(statements, list) or not statements:
            raise ConfigurationError(f"the policy has no statements, or unknown members: {', '.join(sorted(map(str, unknown))) or 'none'}")
        self._statements = [_read_statement(item, number, of_key) for number, item in enumerate(statements)]

    def decide(self, request: Request, iam: "KeyPolicy | None" = None) -> Verdict:
        """Decide about a request; `iam` is what the caller's account lets it do."""
        applying = [statement for statement in self._statements if _applies(statement, request)]
        denials = [statement for statement in applying if not statement.allows]
        if denials:
            return Verdict(False, f"denied by statement {denials[0].name}")
        by_account = iam.decide(request) if iam is not None else Verdict(False, "no policy of the caller")
        if by_account.because.startswith("denied"):
            return by_account
        for statement in applying:
            named = statement.principals is None or any(item == "*" or item in request.principals for item in statement.principals)
            if named or by_account.allowed:
                return Verdict(True, f"allowed by statement {statement.name}")
        return Verdict(False, "no statement allows it")


def _applies(statement: _Statement, request: Request) -> bool:
    if statement.principals is not None and not any(_is(item, request) for item in statement.principals):
        return False
    if any(_like(pattern.lower(), request.action.lower()) for pattern in statement.actions) is statement.actions_negated:
        return False
    if not any(_like(pattern, request.resource) for pattern in statement.resources):
        return False
    context = {name.lower(): value for name, value in request.context.items()}
    return all(_holds(condition, context.get(condition.key)) for condition in statement.conditions)


def _is(principal: str, request: Request) -> bool:
    if principal == "*" or principal in request.principals:
        return True
    account = _ACCOUNT.fullmatch(principal)
    return account is not None and account[1] == request.account


def _holds(condition: _Condition, seen: str | tuple[str, ...] | None) -> bool:
    if condition.operator == "Null":
        return (seen is None) == (condition.values[0] == "true")
    match, negated = _OPERATORS[condition.operator]

    def one(value: str) -> bool:
        """One value of the request: like any of the policy's, or, negated, like none."""
        return any(match(expected, value) for expected in condition.values) is not negated

    if seen is None and condition.if_exists:
        return True
    if condition.quantifier:
        values = () if seen is None else (seen,) if isinstance(seen, str) else seen
        return all(map(one, values)) if condition.quantifier == "ForAllValues" else any(map(one, values))
    if seen is None:
        return negated  # what is not there does not match, so it is unequal
    if not isinstance(seen, str):
        return False  # IAM leaves open what this means, so it never grants here
    return one(seen)


def _like(pattern: str, value: str) -> bool:
    """`*` for any characters, `?` for one; nothing else is special."""
    parts = {"*": ".*", "?": "."}
    return re.fullmatch("".join(parts.get(character) or re.escape(character) for character in pattern), value, re.DOTALL) is not None


def _equals(expected: str, seen: str) -> bool:
    return expected == seen


def _equals_ignoring_case(expected: str, seen: str) -> bool:
    return expected.lower() == seen.lower()


_OPERATORS: Final[dict[str, tuple[Callable[[str, str], bool], bool]]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringEqualsIgnoreCase": (_equals_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_equals_ignoring_case, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "ArnEquals": (_like, False),  # as IAM defines it, the same as ArnLike
    "ArnNotEquals": (_like, True),
    "ArnLike": (_like, False),
    "ArnNotLike": (_like, True),
    "Bool": (_equals_ignoring_case, False),
}


def _read_statement(item: Any, number: int, of_key: bool) -> _Statement:
    if not isinstance(item, Mapping):
        raise ConfigurationError(f"statement {number} of the policy is no object")
    name = str(item.get("Sid") or number)
    unknown = item.keys() - _MEMBERS
    if (
        unknown
        or item.get("Effect") not in ("Allow", "Deny")
        or ("Principal" in item) is not of_key
        or ("Action" in item) is ("NotAction" in item)
    ):
        raise ConfigurationError(
            f"statement {name} of the policy needs Effect, {'Principal, ' if of_key else ''}Action or NotAction, and has, not understood: "
            f"{', '.join(sorted(map(str, unknown))) or 'nothing'}"
        )
    if "Resource" not in item:
        raise ConfigurationError(f"statement {name} of the policy needs a Resource")
    return _Statement(
        name,
        item["Effect"] == "Allow",
        _read_principals(item["Principal"], name) if of_key else None,
        _texts(item.get("Action", item.get("NotAction")), f"the actions of statement {name}"),
        "NotAction" in item,
        _texts(item["Resource"], f"the resources of statement {name}"),
        _read_conditions(item.get("Condition", {}), name),
    )


def _read_principals(value: Any, name: str) -> tuple[str, ...]:
    if value == "*":
        return ("*",)
    if not isinstance(value, Mapping) or not value or value.keys() - {"AWS", "Service"}:
        raise ConfigurationError(f'the principal of statement {name} is neither "*" nor {{"AWS": ...}}')
    found = _texts(value["AWS"], f"the principals of statement {name}") if "AWS" in value else ()
    if any(item != "*" and ("*" in item or "?" in item) for item in found):
        raise ConfigurationError(f"a principal of statement {name} has a wildcard, which principals never have; use aws:PrincipalArn")
    return found  # services never call here, so their statements apply to nobody


def _read_conditions(value: Any, name: str) -> tuple[_Condition, ...]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"the conditions of statement {name} are no object")
    found = []
    for written, tests in value.items():
        prefix, mark, rest = str(written).rpartition(":")
        operator = rest.removesuffix("IfExists")
        null = operator == "Null"
        known = written == "Null" if null else operator in _OPERATORS and (not mark or prefix in ("ForAnyValue", "ForAllValues"))
        if not known:
            raise ConfigurationError(f"statement {name} has condition operator {written!r}, which this does not understand")
        if not isinstance(tests, Mapping) or not tests:
            raise ConfigurationError(f"condition {written} of statement {name} names no key")
        for key, expected in tests.items():
            values = _texts(expected, f"condition {written} of statement {name}")
            if null and values not in (("true",), ("false",)):
                raise ConfigurationError(f'Null in statement {name} is neither "true" nor "false"')
            found.append(_Condition(operator, prefix, rest != operator, str(key).lower(), values))
    return tuple(found)


def _texts(value: Any, what: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    values = [str(item).lower() if isinstance(item, bool) else item for item in values]
    if not values or any(not isinstance(item, str) for item in values):
        raise ConfigurationError(f"{what} are not texts")
    if any("${" in item for item in values):
        raise ConfigurationError(f"{what} have a variable, which this does not understand")
    return tuple(values)
