"""What `ledgerd ledger verify` says of the nodes that a ledger records: for programs, and for people."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ledgerd.node.cli.output import NODE_ID_SHOWN

if TYPE_CHECKING:
    from ledgerd.governance.attested_nodes import NodeFinding

SHOWN_MAX: Final = 20  # notes on single nodes; JSON has all


def records(findings: "Sequence[NodeFinding]") -> list[dict[str, Any]]:
    """All of them, for programs."""
    return [finding._asdict() for finding in findings]


def summary(findings: "Sequence[NodeFinding]") -> str:
    """One line for people."""
    counts = Counter(finding.verdict.lower() for finding in findings)
    verified = counts.pop("verified", 0)
    rest = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    simulated = sum(finding.simulated is True for finding in findings)
    text = f"evidence of {verified} of {len(findings)} verified, as of when it was recorded"
    return text + (f"; {rest}" if rest else "") + (f"; SIMULATED: {simulated}" if simulated else "")


def notes(findings: "Sequence[NodeFinding]") -> list[str]:
    """What people should know: who was not verified and why, and what was checked and what was not."""
    from ledgerd.governance.attested_nodes import NEVER_CHECKED, VERIFIED  # noqa: PLC0415

    others = [finding for finding in findings if finding.verdict != VERIFIED]
    said = [f"{_named(item)}: {item.verdict.lower()}: {item.reason}" for item in others[:SHOWN_MAX]]
    if len(others) > SHOWN_MAX:
        said.append(f"and {len(others) - SHOWN_MAX} more: -o json has all")
    checked = Counter(what.replace("_", " ") for finding in findings for what in finding.checked)
    if checked:
        parts = ", ".join(f"{what}{'' if count == len(findings) else f' (of {count})'}" for what, count in checked.items())
        said.append(f"Checked of the nodes: {parts}. Not checked: {NEVER_CHECKED}.")
    if any(finding.simulated for finding in findings):
        said.append("SIMULATED: a node was attested by a root that is neither AWS's nor AMD's, so there may have been no enclave at all")
    return said


def refusal(findings: "Sequence[NodeFinding]", *, strict: bool) -> str | None:
    """Why the ledger's nodes are refused, by the first that is; None if none is. `strict`: what cannot be judged is refused, too."""
    from ledgerd.governance.attested_nodes import REFUSED, UNCHECKED, UNSIGNED  # noqa: PLC0415

    first = next(
        (
            finding
            for finding in findings
            if finding.verdict == REFUSED or (strict and finding.verdict == UNCHECKED and finding.reason != UNSIGNED)
        ),
        None,
    )
    return None if first is None else f"{_named(first)}: {first.reason}"


def _named(finding: "NodeFinding") -> str:
    return f"node {finding.node_id[:NODE_ID_SHOWN]}..., recorded in entry {finding.seqno}"
