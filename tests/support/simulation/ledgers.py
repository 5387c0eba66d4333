"""Real ledger entries, as the simulation reads them: what they mean, with which secrets they open, and what applications see of them."""

from collections.abc import Callable
from typing import Any, Final

from ledgerd.governance import tables
from ledgerd.ledger.entry import Sealer, read_public
from ledgerd.ledger.errors import IntegrityError
from ledgerd.ledger.signature import TREE
from support.histories import Entry, Id
from support.simulation.application import PRIVATE, PUBLIC
from support.simulation.invariants import rule, violation
from support.simulation.observation import PLAIN, Meaning, Registry

SECRET: Final = b"the ledger secret of a simulation"[:32]
_SPECIAL: Final = b"public:ccf."


def read_entry(data: bytes, before: frozenset[str]) -> Meaning:
    """What an entry means for consensus, read from its public part."""
    if _SPECIAL not in data:
        return PLAIN
    writes = read_public(data).writes
    if TREE in writes:
        return Meaning(signs=True)
    nodes = before
    is_changed = False
    removed = set()
    for key, value in writes.get(tables.NODE_INFO, {}).items():
        if value is None:
            continue
        node = tables.decode(value)
        if node["status"] == tables.RETIRED and node["retired_committed"]:
            removed.add(key.decode())
        elif node["status"] == tables.RETIRED:
            is_changed, nodes = True, nodes - {key.decode()}
        elif node["status"] == tables.TRUSTED:
            is_changed, nodes = True, nodes | {key.decode()}
    rekeys = tables.ENCRYPTED_LEDGER_SECRETS in writes
    if not (is_changed or removed or rekeys):
        return PLAIN
    return Meaning(nodes=nodes if is_changed else None, removed=frozenset(removed), rekeys=rekeys)


Announced = Callable[[bytes], bytes]
"""Gives the ledger secret that an entry announces."""


def as_applications_see(registry: Registry, first: bytes, announced: Announced) -> dict[Id, Entry]:
    """Open all entries that there ever were, and leave what applications wrote.

    Args:
        first: The secret of entry 1.
        announced: Asked for those after it.
    Raises: Violation: One is sealed with another secret than that of its epoch. FormatError: One cannot be read.
    """
    facts = registry.facts
    sealers = {first: Sealer(first)}
    secrets: dict[Id, bytes] = {(0, 0): first}  # that of the entry after each
    seen: dict[Id, Entry] = {}
    for view, seqno in sorted(facts, key=lambda name: name[1]):
        fact = facts[view, seqno]
        secret = secrets[fact.before, seqno - 1]
        opened = sealed_with_its_epoch(sealers[secret], view, seqno, fact.data)
        if fact.meaning.rekeys:
            secret = announced(fact.data)
            sealers.setdefault(secret, Sealer(secret))
        secrets[view, seqno] = secret
        writes = {
            key.decode(): None if value is None else value.decode()
            for name in (PUBLIC, PRIVATE)
            for key, value in opened.writes.get(name, {}).items()
        }
        seen[view, seqno] = Entry(view, seqno, writes)
    return seen


@rule
def sealed_with_its_epoch(sealer: Sealer, view: int, seqno: int, data: bytes) -> Any:
    """Each entry is sealed with the secret that its own log announced last: else the old secret reads what the new one should keep."""
    try:
        return sealer.open(data)
    except IntegrityError as error:
        raise violation(sealed_with_its_epoch, f"{view}.{seqno}: {error}") from None


@rule
def boxes_agree(opened: dict[str, bytes]) -> bytes:
    """A new secret is the same for every node: else some read on, and others stop."""
    if len(set(opened.values())) != 1:
        raise violation(boxes_agree, f"{len(set(opened.values()))} secrets are in the boxes for {sorted(name[:16] for name in opened)}")
    return next(iter(opened.values()))


@rule
def secrets_follow_log(node: Any) -> None:
    """A node knows the secrets that its log announces and no others: one that outlives its entry seals what nobody else opens."""
    known = [secret.version for secret in node.serving._replica._secrets._known]
    if known != node.shadow.epochs:
        raise violation(secrets_follow_log, f"{node.name} knows the secrets from {known} on, its log says {node.shadow.epochs}")
