"""`ledgerd gov audit`: governance replayed from a ledger, offline.

Nothing here is believed but bytes and the certificate that the caller names. Not here: the rules (`enclave.auditing`).
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ledgerd.enclave.auditing.findings import NotFollowingError, Step
from ledgerd.enclave.auditing.replay import Replay
from ledgerd.enclave.auditing.requesting import SCRIPT_SECONDS_MAX
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.node.cli.ledger import anchor_option, open_auditor, open_source, progress
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import FOLDER

REFUSED: Final = "REFUSED"
FOLLOWS: Final = "FOLLOWS"
UNANCHORED: Final = "UNANCHORED"
TOLD_EVERY_SECONDS: Final = 30.0


@command("audit")
@click.argument("path", type=FOLDER)
@anchor_option
@click.option("--verbose", "-v", is_flag=True, help="Tell what every entry of governance did. With `-o json` that is always told.")
@click.option(
    "--script-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=SCRIPT_SECONDS_MAX / 60,
    show_default=True,
    help="For how long the ledger's scripts may run, all together: whoever wrote it may have written some that take for ever.",
)
def gov_audit(output: Output, path: Path, service_cert: Path | None, verbose: bool, script_minutes: float) -> None:
    """Replay governance from a ledger, offline.

    PATH is a node's directory or a folder of CCF chunk files. The ledger is verified as by `ledgerd ledger verify`, with the evidence of
    its nodes; and every entry that changes what governs the service must follow from those before it. Every member's signature is verified,
    every proposal and ballot is executed again by the constitution that stood in the ledger then, and what comes out is compared with
    what stands there. The first thing that does not follow is named, with the rule that is broken. Without a certificate the verdict is
    UNANCHORED instead of FOLLOWS: anybody could have made such a ledger.

    The ledger's scripts are run in script workers, which can touch nothing of this machine.
    """
    from ledgerd.governance.attested_nodes import NodeAudit  # noqa: PLC0415
    from ledgerd.node.cli import node_findings  # noqa: PLC0415
    from ledgerd.node.script_workers import script_workers  # noqa: PLC0415

    source = open_source(path)
    auditor = open_auditor(service_cert)
    replay, nodes = Replay(), NodeAudit(None, None)
    replay.allow(script_minutes * 60)
    steps: list[Step] = []

    def facts(verdict: str, **more: Any) -> dict[str, Any]:
        counts = Counter(step.kind for step in steps)
        shown = {
            "verdict": verdict,
            "path": str(path),
            "kind": source.kind,
            "transactions": auditor.last.seqno,
            "last_signed": None if auditor.signed is None else str(auditor.signed),
            **{f"{kind}s": counts[kind] for kind in ("proposal", "ballot", "withdrawal", "ack")},
            "other_changes": sum(count for kind, count in counts.items() if kind not in ("proposal", "ballot", "withdrawal", "ack")),
            **more,
        }
        return {**shown, "steps": [_fields(step) for step in steps]} if output.json else shown

    def refuse(reason: str, **more: Any) -> Ended:
        output.record("gov_audit", facts(REFUSED, **more, reason=reason))
        return Ended(EXIT_FAILED)

    try:
        with script_workers(replay.pool) as workers, progress(output, "replaying", source.total) as advance:
            replay.turn = _telling(output, replay, workers.turn)
            for stored in source.entries():
                entry = auditor.feed(stored.data)
                nodes.feed(entry)
                step = replay.feed(entry)
                if step is not None:
                    steps.append(step)
                    if verbose and not output.json:
                        output.note(f"{step.transaction_id} {step.text}")
                advance(stored)
        result = auditor.result()
    except NotFollowingError as error:
        where = {"entry": str(error.transaction_id), "rule": error.rule, "expected": error.expected, "found": error.found}
        raise refuse(error.meaning, **where) from None
    except (IntegrityError, FormatError) as error:
        raise refuse(str(error)) from None
    if result.transactions == 0:
        raise IntegrityError(f"{path} holds no entries; nothing is verified by that")
    refused = node_findings.refusal(nodes.findings(), strict=False)
    if refused is not None:
        raise refuse(refused)
    output.record("gov_audit", facts(FOLLOWS if result.anchored else UNANCHORED, unsigned=result.unsigned))
    if not result.anchored:
        output.note("UNANCHORED: governance follows from this ledger; whose it is remains open. Give --service-cert FILE.")


def _telling(output: Output, replay: Replay, turn: Callable[[], None]) -> Callable[[], None]:
    """The turn, and now and then a word to people about where scripts take so long."""
    told_at = time.monotonic()

    def telling() -> None:
        nonlocal told_at
        turn()
        if not output.json and time.monotonic() - told_at >= TOLD_EVERY_SECONDS:
            told_at = time.monotonic()
            minutes = replay.script_seconds / 60
            output.note(f"Running scripts of entry {replay.store.version + 1}; all together they have run for {minutes:.1f} minutes.")

    return telling


def _fields(step: Step) -> dict[str, Any]:
    return {**step._asdict(), "transaction_id": str(step.transaction_id)}
