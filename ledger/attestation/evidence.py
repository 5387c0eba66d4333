"""One door for evidence of every platform, so that a consortium can mix them: nodes on one admit nodes on another.

`Evidence` is what travels and is recorded, with CCF's names for its parts; `Verifier` is what judges one format; `Accepted` is all that a
service accepts. The two calls stay apart here too: `verify_now` with a nonce, `verify_recorded` at the time that the ledger recorded.
Not here: the rules of each platform (`policy`, `snp_policy`).
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from ledgerd.ledger.attestation import policy, snp_policy
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.nitro import Attestation
from ledgerd.ledger.attestation.policy import Policy
from ledgerd.ledger.attestation.snp import SnpAttestation
from ledgerd.ledger.attestation.snp_policy import SnpPolicy

NITRO: Final = "AWS_Nitro_v1"
SNP: Final = "AMD_SEV_SNP_v1"


class Evidence(NamedTuple):
    """What a node shows of itself: `quote_info` of CCF's join request and of its table of nodes, decoded.

    Attributes:
        format: `NITRO` or `SNP`.
        quote: Attestation document or report.
        endorsements: SNP: certificates in PEM; empty on Nitro, whose documents carry them.
        uvm_endorsement: SNP: COSE_Sign1 that vouches for the measurement, or None.
    """

    format: str
    quote: bytes
    endorsements: bytes = b""
    uvm_endorsement: bytes | None = None


class Verdict(NamedTuple):
    """What every platform's evidence proves.

    Attributes:
        format: As in `Evidence`.
        code_digest: What runs: PCR0, or the guest's measurement.
        machine: Where it runs, for people: the Nitro module, or the chip.
        root: Hex SHA-256 of the root below which it was made.
        simulated: The root is neither AWS's nor AMD's: there may be no enclave at all. Say so wherever you say "attested".
        details: Everything else, by platform.
    """

    format: str
    code_digest: bytes
    machine: str
    root: str
    simulated: bool
    details: Attestation | SnpAttestation


class Verifier(Protocol):
    """Judges one format of evidence by one policy."""

    @property
    def format(self) -> str:
        """The format that it judges."""
        ...

    def verify_now(
        self, evidence: Evidence, *, now_ms: int, nonce: bytes, public_key: bytes, user_data: bytes, configuration: bytes | None
    ) -> Verdict:
        """Verify evidence that was made for this caller, just now.

        Args:
            evidence: As it came.
            now_ms: Milliseconds since 1970 by a clock that the caller trusts.
            nonce: What this caller made for this one piece of evidence, at least 16 bytes; the caller forgets it after this call.
            public_key: DER of the key that must be attested.
            user_data: The data that must be attested.
            configuration: Digest of the configuration that PCR16 must measure; None where the caller knows of none. An SNP report has no
                register for it: there `user_data` must hold it too, and alone binds it.
        Raises: AttestationError: Any of `errors.RULES`. UsageError: The nonce is too short.
        """
        ...

    def verify_recorded(self, evidence: Evidence, *, at_ms: int, public_key: bytes | None = None) -> Verdict:
        """Verify evidence that the ledger holds, as of the time at which it was recorded. Proves nothing about now.

        Raises: AttestationError: Any of `errors.RULES` but `nonce`.
        """
        ...


class NitroVerifier(NamedTuple):
    """Judges AWS Nitro attestation documents."""

    policy: Policy

    @property
    def format(self) -> str:
        """The format that it judges."""
        return NITRO

    def verify_now(
        self, evidence: Evidence, *, now_ms: int, nonce: bytes, public_key: bytes, user_data: bytes, configuration: bytes | None
    ) -> Verdict:
        """As `Verifier.verify_now`."""
        _check_parts(evidence)
        return _nitro_verdict(
            policy.verify_now(
                evidence.quote,
                self.policy,
                now_ms=now_ms,
                nonce=nonce,
                public_key=public_key,
                user_data=user_data,
                configuration=configuration,
            )
        )

    def verify_recorded(self, evidence: Evidence, *, at_ms: int, public_key: bytes | None = None) -> Verdict:
        """As `Verifier.verify_recorded`."""
        _check_parts(evidence)
        return _nitro_verdict(policy.verify_recorded(evidence.quote, self.policy, at_ms=at_ms, public_key=public_key))


class SnpVerifier(NamedTuple):
    """Judges AMD SEV-SNP reports."""

    policy: SnpPolicy

    @property
    def format(self) -> str:
        """The format that it judges."""
        return SNP

    def verify_now(
        self, evidence: Evidence, *, now_ms: int, nonce: bytes, public_key: bytes, user_data: bytes, configuration: bytes | None
    ) -> Verdict:
        """As `Verifier.verify_now`; `configuration` has no place of its own in a report."""
        report = (evidence.quote, evidence.endorsements, evidence.uvm_endorsement)
        return _snp_verdict(
            snp_policy.verify_now(*report, self.policy, now_ms=now_ms, nonce=nonce, public_key=public_key, user_data=user_data)
        )

    def verify_recorded(self, evidence: Evidence, *, at_ms: int, public_key: bytes | None = None) -> Verdict:
        """As `Verifier.verify_recorded`."""
        report = (evidence.quote, evidence.endorsements, evidence.uvm_endorsement)
        return _snp_verdict(snp_policy.verify_recorded(*report, self.policy, at_ms=at_ms, public_key=public_key))


class Accepted:
    """All that a service accepts: one verifier for each format."""

    def __init__(self, verifiers: Iterable[Verifier]) -> None:
        self._verifiers = {verifier.format: verifier for verifier in verifiers}

    def verifier_of(self, evidence: Evidence) -> Verifier:
        """Find who judges such evidence.

        Raises: AttestationError: Rule `format`: nobody does.
        """
        verifier = self._verifiers.get(evidence.format)
        if verifier is None:
            raise AttestationError(
                "format",
                f"evidence of format {evidence.format[:64]!r}",
                " or ".join(sorted(self._verifiers)) or "a format, but none is accepted",
                "the members decide which platforms are accepted",
            )
        return verifier


def _check_parts(evidence: Evidence) -> None:
    if evidence.endorsements or evidence.uvm_endorsement is not None:
        raise AttestationError(
            "form",
            "a Nitro document with endorsements beside it",
            "the document alone",
            "send the document alone: it carries its certificates",
        )


def _nitro_verdict(attestation: Attestation) -> Verdict:
    return Verdict(NITRO, attestation.pcrs[0], attestation.module_id, attestation.root, attestation.simulated, attestation)


def _snp_verdict(attestation: SnpAttestation) -> Verdict:
    machine = f"{attestation.product} {attestation.chip_id.hex()[:16]}"
    return Verdict(SNP, attestation.measurement, machine, attestation.root, attestation.simulated, attestation)
