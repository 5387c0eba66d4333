"""Governance audited in tests: the whole of a ledger, verified and replayed in this process."""

from collections.abc import Sequence

from ledgerd.enclave.auditing.findings import NotFollowingError, Step
from ledgerd.enclave.auditing.replay import Replay
from ledgerd.ledger.audit import Auditor
from support.script_workers import ScriptWorkers


def driven(replay: Replay) -> None:
    """Run its scripts in this process."""
    workers = ScriptWorkers(replay.pool)

    def turn() -> None:
        workers.turn(0.0)

    replay.turn = turn


def audited(entries: Sequence[bytes], certificate: str) -> list[Step]:
    """What the entries of a ledger did.

    Raises: IntegrityError: The ledger does not verify. NotFollowingError: Its governance does not follow.
    """
    auditor, replay = Auditor(certificate), Replay()
    driven(replay)
    steps = [replay.feed(auditor.feed(entry)) for entry in entries]
    assert auditor.result().anchored
    return [step for step in steps if step is not None]


def refusal(entries: Sequence[bytes], certificate: str) -> NotFollowingError:
    """Why the governance of a ledger does not follow, all of whose hashes and signatures are right."""
    auditor = Auditor(certificate)
    for entry in entries:
        auditor.feed(entry)
    assert auditor.result().anchored, "`ledger verify` accepts it"
    try:
        audited(entries, certificate)
    except NotFollowingError as error:
        return error
    raise AssertionError("the audit accepts it")
