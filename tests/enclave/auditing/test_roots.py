"""Which root a proposal's id was made from, however many entries have passed since."""

from hashlib import sha256

from ledgerd.enclave.auditing.roots import BLOCK_LEAVES, Roots
from ledgerd.ledger.merkle import Frontier

DIGEST = sha256(b"signature").digest()


def test_every_root_is_found_across_blocks() -> None:
    found, frontier = Roots(), Frontier()
    seen = [frontier.root()]
    for number in range(3 * BLOCK_LEAVES + 1):
        leaf = sha256(b"%d" % number).digest()
        found.append(leaf)
        frontier.append(leaf)
        seen.append(frontier.root())
    for root in seen:
        assert found.behind(sha256(root + DIGEST).hexdigest(), DIGEST) == root


def test_a_root_of_another_ledger_or_another_signature_is_not() -> None:
    found, frontier = Roots(), Frontier()
    found.append(sha256(b"here").digest())
    frontier.append(sha256(b"there").digest())
    assert found.behind(sha256(frontier.root() + DIGEST).hexdigest(), DIGEST) is None
    assert found.behind(sha256(Frontier().root() + DIGEST).hexdigest(), sha256(b"other").digest()) is None
