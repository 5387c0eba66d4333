"""The one refusal of this package: which rule, what was seen, what was expected, what to do."""

from typing import ClassVar, Final

from ledgerd.ledger.errors import IntegrityError

# Names of rules are stable: logs, tests, exit messages and operators' alerts rely on them. In the order in which they are checked.
RULES: Final = (
    "size",  # longer than any document, or empty
    "form",  # not the one CBOR shape that documents have
    "algorithm",  # not ES384, or a certificate that is not P-384 with ecdsa-with-SHA384
    "root",  # the bundle's root is none of those that are accepted
    "chain",  # certificates do not follow from the root: signature, names, CA flags, path lengths, key usage
    "validity",  # a certificate is not valid at the time of judgement
    "signature",  # the leaf's key did not sign these bytes
    "debug",  # started in debug mode: the host can read its console, PCR0-2 are zero
    "measurement",  # PCR0, 1 and 2 together (and 3, 8 where asked) are in no line of the allow-list
    "module",  # PCR4 is not the measurement of the instance that module_id names
    "nonce",  # not the nonce that was asked for
    "public_key",  # not the key that was expected
    "user_data",  # not the data that was expected
    "configuration",  # PCR16 is not the measurement of the configuration that was expected
    "age",  # made too long ago, or in the future
)


class AttestationError(IntegrityError):
    """A document is refused.

    Attributes:
        rule: One of `RULES`.
        seen: What the document says, short, for people.
        expected: What would have been accepted.
        advice: What the operator of the refused enclave, or of the verifier, can do.
    """

    code: ClassVar[str] = "AttestationError"

    def __init__(self, rule: str, seen: str, expected: str, advice: str) -> None:
        assert rule in RULES, rule
        super().__init__(f"attestation refused by rule {rule!r}: {seen}; expected {expected}; {advice}")
        self.rule = rule
        self.seen = seen
        self.expected = expected
        self.advice = advice
