"""What a service accepts of those who ask to join, read from its tables: never from a file, never from a host.

Nitro always; SEV-SNP where the members' policy has rows for it, in CCF's tables and form.
Not here: who may change the tables (`governance`), the exchange (`enclave.admission`), the rules (`ledger.attestation`).
"""

import base64
from typing import Any

from ledgerd.enclave.endpoints import Context
from ledgerd.governance import tables
from ledgerd.ledger.attestation.evidence import Accepted, Evidence, NitroVerifier, SnpVerifier, Verifier
from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.ledger.attestation.policy import Policy
from ledgerd.ledger.attestation.roots import parse_roots
from ledgerd.ledger.attestation.snp_policy import policy_of
from ledgerd.ledger.errors import ConfigurationError


def accepted(context: Context) -> Accepted:
    """Read the join policy.

    Raises: ConfigurationError: The members accepted a row that is of another form; nobody joins until they change it.
    """
    lines = frozenset(Measurement(*tables.parse_measurement_key(key)) for key, _ in context.governance(tables.NITRO_MEASUREMENTS).items())
    try:
        roots = parse_roots([value.decode() for _, value in context.governance(tables.NITRO_ROOTS).items()])
    except UnicodeDecodeError:
        raise ConfigurationError("a root in the join policy is not PEM; the members have to remove it") from None
    verifiers: list[Verifier] = [NitroVerifier(Policy(roots, lines))]
    host_data = [key for key, _ in context.governance(tables.SNP_HOST_DATA).items()]
    if host_data:  # without any, no guest could be accepted, so the platform is not
        verifiers.append(
            SnpVerifier(
                policy_of(
                    measurements=[key for key, _ in context.governance(tables.SNP_MEASUREMENTS).items()],
                    host_data=host_data,
                    uvm_endorsements=context.governance(tables.SNP_UVM_ENDORSEMENTS).items(),
                    tcb_versions=context.governance(tables.SNP_TCB_VERSIONS).items(),
                )
            )
        )
    return Accepted(verifiers)


def parse_evidence(quote_info: Any) -> Evidence:
    """Read `quote_info` of a join request, as CCF has it.

    Raises: ValueError, KeyError, TypeError: It is of another form.
    """
    uvm = quote_info.get("uvm_endorsements")
    return Evidence(
        str(quote_info["format"])[:64],
        _decoded(quote_info["quote"]),
        _decoded(quote_info.get("endorsements", "")),
        None if uvm is None else _decoded(uvm),
    )


def record_of(evidence: Evidence) -> dict[str, str]:
    """`quote_info` as the table of nodes keeps it."""
    record = {
        "format": evidence.format,
        "quote": base64.b64encode(evidence.quote).decode(),
        "endorsements": base64.b64encode(evidence.endorsements).decode(),
    }
    if evidence.uvm_endorsement is not None:
        record["uvm_endorsements"] = base64.b64encode(evidence.uvm_endorsement).decode()
    return record


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
