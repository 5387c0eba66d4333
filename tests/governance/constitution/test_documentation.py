"""docs/governance.md against the constitution: every action is there, with its arguments, and every example is a valid proposal."""

import json
import re
from typing import Any

from ledgerd.governance import constitution
from support.consortium import (
    CAROL,
    NITRO_ROOT,
    OTHER_ROOT,
    PCR0,
    PCR1,
    PCR2,
    PENDING,
    RSA_PEM,
    SERVICE,
    THIS,
    TRUSTED,
    USER,
    key,
    member_id,
    service,
)
from support.constitution import Constitution, changes, text_of, with_rows
from support.proposed_actions import CONSTITUTION, ISSUER, RSA_KEY
from support.repository import ROOT

OURS = Constitution(text_of(constitution.BY_VOTE))
TEXT = (ROOT / "docs" / "governance.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^#### `(\w+)`\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL))

# What the words in capitals stand for, in the service of the tests.
VALUES = {
    "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n": SERVICE.pem,
    "-----BEGIN PUBLIC KEY-----\n...\n-----END PUBLIC KEY-----\n": RSA_PEM,
    "export function validate(input) { ... }": CONSTITUTION,
    "MEMBER_ID": member_id(CAROL),
    "USER_ID": member_id(USER),
    "NODE_ID": TRUSTED,
    "PENDING_NODE_ID": PENDING,
    "PCR0": PCR0,
    "PCR1": PCR1,
    "PCR2": PCR2,
    "ROOT_ID": member_id(NITRO_ROOT),
    "SNP_MEASUREMENT": PCR0,
    "HOST_DATA": "ab" * 32,
    "DID": "did:x509:one",
    "FEED": "feed",
    "ISSUER": ISSUER,
    "BUNDLE": "roots",
    "RSA_MODULUS": RSA_KEY["n"],
}


def filled(value: Any) -> Any:
    """An example with its placeholders filled in."""
    if isinstance(value, dict):
        return {name: filled(one) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one) for one in value]
    return VALUES.get(value, value) if isinstance(value, str) else value


def example(text: str) -> dict[str, Any]:
    (found,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    proposal: dict[str, Any] = filled(json.loads(found))
    return proposal


def test_every_action_is_described_with_its_arguments() -> None:
    documented = {
        name: {argument: bool(optional) for argument, optional in re.findall(r"^- `(\w+)`( \(optional\))?: ", text, re.MULTILINE)}
        for name, text in SECTIONS.items()
    }
    defined = OURS.eval(
        "Object.fromEntries([...actions].map(([name, { args }]) =>"
        " [name, Object.fromEntries(Object.entries(args).map(([argument, shape]) => [argument, Boolean(shape.optional)]))]))"
    )
    assert documented == defined


def test_every_example_is_valid_and_can_be_applied() -> None:
    before = with_rows(service(), NITRO_ROOTS={key(OTHER_ROOT): OTHER_ROOT.pem.encode()})
    for name, text in SECTIONS.items():
        proposal = example(text)
        assert [action["name"] for action in proposal["actions"]] == [name]
        assert OURS.validate(proposal, before) is None
        OURS.apply(proposal, before, THIS)


def test_the_example_of_an_action_of_ones_own_works() -> None:
    section = TEXT.partition("<!-- example: own action -->")[2].partition("\n## ")[0]
    (source,) = re.findall(r"^```js\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    own = Constitution(text_of(constitution.BY_VOTE) + source)
    proposal = example(section)
    assert own.validate(proposal, service()) is None
    before = with_rows(service()) | {"public:roles.reader": {b"/old": b"true"}}
    assert changes(before, own.apply(proposal, before, THIS).tables) == {"public:roles.reader": {b"/old": None, b"/content/read": b"true"}}
    proposal["actions"][0]["args"]["role"] = "../reader"
    refused = own.validate(proposal, service())
    assert refused is not None
    assert "role: expected a word" in refused
    assert OURS.validate(proposal, service()) != refused, "without it there is no such action"


def test_the_first_example_and_the_refusal_are_true() -> None:
    whole = example(TEXT.partition("<!-- example: whole -->")[2].partition("## How")[0])
    assert OURS.validate(whole, service()) is None
    name, value = "set_recovery_threshold", {"recovery_threshold": 0}
    refused = OURS.validate({"actions": [{"name": name, "args": value}]}, service())
    assert f"```\n{refused}\n```" in TEXT
