"""The one refusal of this package: which rule, what was seen, what was expected, what to do."""

from typing import ClassVar, Final

from ledgerd.ledger.errors import IntegrityError

# Names of rules are stable: logs, tests, exit messages and operators' alerts rely on them. In the order in which they are checked.
RULES: Final = (
    "version",  # of a joiner: its program is older than the service's members allow
    "format",  # a kind of evidence that nobody here verifies, or that the policy does not accept
    "size",  # longer than any document, or empty
    "form",  # not the one shape that documents have
    "algorithm",  # not the platform's: ES384 and P-384; RSA-PSS with SHA-384 for AMD's authorities
    "root",  # the chain's root is none of those that are accepted
    "chain",  # certificates do not follow from the root: signature, names, CA flags, path lengths, key usage
    "validity",  # a certificate is not valid at the time of judgement
    "signature",  # the leaf's key did not sign these bytes
    "chip",  # SNP: the report is not of the chip, or the kind of processor, whose certificate signs
    "tcb",  # SNP: firmware is not what the certificate says, or older than the least that is accepted
    "debug",  # started in debug mode: the host can read it (Nitro: PCR0-2 are zero)
    "migration",  # SNP: the guest may be moved to another machine, so there could be two of it
    "vmpl",  # SNP: the report was made by the host, or at a privilege level that is not accepted
    "endorsement",  # SNP: the statement that vouches for the measurement (UVM endorsement) does not verify, or is not accepted
    "measurement",  # what runs is in no line of the allow-list (Nitro: PCR0, 1 and 2 together, and 3, 8 where asked)
    "host_data",  # SNP: the container policy that the guest enforces is none that is accepted
    "module",  # Nitro: PCR4 is not the measurement of the instance that module_id names
    "nonce",  # not the nonce that was asked for
    "public_key",  # not the key that was expected
    "user_data",  # not the data that was expected
    "configuration",  # Nitro: PCR16 is not the measurement of the configuration that was expected
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
