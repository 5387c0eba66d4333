"""When the primary signs: what a round waits for, and for how long at most."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave.group_commit import PATIENCE_SECONDS_MAX, SCRIPTS_SECONDS_MAX, GroupCommit
from ledgerd.enclave.history import History
from ledgerd.ledger import signature
from ledgerd.ledger.ids import NodeId, Seqno, View

KEY = ec.generate_private_key(ec.SECP256R1())
ROUND_SECONDS = 1 / 256  # from a signature to its commit; sums of it are exact
PATIENCE_SECONDS = ROUND_SECONDS / 2


class World:
    """A history, and who decides when it is signed; the clock is the test's."""

    def __init__(self) -> None:
        self.history = History()
        self.commit = Seqno(0)
        self.now = 100.0
        self.group = GroupCommit(NodeId("ab" * 32), KEY, "certificate", KEY)

    def write(self, count: int = 1) -> None:
        """Entries that nothing covers yet."""
        self.history.extend([bytes(32)] * count)

    def is_due(self, later: float = 0.0, coming: int = 0) -> bool:
        """Ask, after a while."""
        self.now += later
        return self.group.is_due(self.history, self.commit, self.now, coming)

    def sign(self) -> signature.Signature:
        """Sign."""
        _, record = self.group.sign(View(2), self.history, self.now, 1_700_000_000)
        self.history.append_signature(bytes(32), record)
        return record

    def round(self, size: int) -> None:
        """So many are written, signed and committed; then the next round has begun."""
        self.write(size)
        self.sign()
        assert not self.is_due(ROUND_SECONDS), "the signature is outstanding"
        self.commit = self.history.last
        assert not self.is_due(), "nothing is unsigned"


def test_what_comes_to_an_idle_service_is_signed_at_once_and_one_signature_at_a_time() -> None:
    world = World()
    assert not world.is_due()
    world.write()
    assert world.is_due()
    world.sign()
    world.write(10)
    assert not world.is_due(1.0)
    world.commit = Seqno(world.history.last_signed)
    assert not world.is_due(), "those ten may not be all that were answered"


def test_a_round_begins_when_as_many_are_back_as_were_answered() -> None:
    world = World()
    world.round(3)
    world.write(2)
    assert not world.is_due()
    world.write()
    assert world.is_due()


def test_a_round_waits_half_as_long_as_the_last_one_took_from_when_there_is_something() -> None:
    world = World()
    world.round(3)
    assert not world.is_due(1.0), "for nothing it does not begin to wait"
    world.write()
    assert not world.is_due()
    assert world.group.begin_at == world.now + PATIENCE_SECONDS
    world.write()
    assert not world.is_due(PATIENCE_SECONDS * 0.9), "who comes later does not begin anew"
    assert world.is_due(PATIENCE_SECONDS * 0.11)


def test_it_never_waits_longer_than_it_may() -> None:
    world = World()
    world.write(3)
    world.sign()
    world.commit = world.history.last
    assert not world.is_due(60.0)
    world.write()
    assert not world.is_due()
    assert world.group.begin_at == world.now + PATIENCE_SECONDS_MAX


def test_what_scripts_are_about_to_write_is_waited_for() -> None:
    world = World()
    world.round(3)
    world.write()
    assert not world.is_due(coming=2)
    assert not world.is_due(PATIENCE_SECONDS * 3, coming=1)
    world.write()
    assert not world.is_due(PATIENCE_SECONDS * 3, coming=1)
    world.write()
    assert world.is_due()


def test_but_not_for_ever() -> None:
    world = World()
    world.round(3)
    world.write()
    assert not world.is_due(coming=1)
    assert not world.is_due(SCRIPTS_SECONDS_MAX * 0.99, coming=1)
    assert world.group.begin_at == pytest.approx(world.now + SCRIPTS_SECONDS_MAX * 0.01)
    assert world.is_due(SCRIPTS_SECONDS_MAX * 0.02, coming=1)


def test_others_have_their_time_from_when_no_script_is_about_to_end_any_more() -> None:
    world = World()
    world.round(3)
    world.write()
    assert not world.is_due(coming=1)
    assert not world.is_due(PATIENCE_SECONDS * 3, coming=1)
    assert not world.is_due(PATIENCE_SECONDS * 0.9)
    assert world.is_due(PATIENCE_SECONDS * 0.11)


def test_what_scripts_are_about_to_write_as_a_round_ends_is_waited_for() -> None:
    world = World()
    world.write()
    world.sign()
    world.commit = world.history.last
    assert not world.is_due(ROUND_SECONDS, coming=2)
    world.write(2)
    assert not world.is_due(coming=1)
    world.write()
    assert world.is_due()


def test_the_next_round_and_a_new_view_know_nothing_of_how_long_this_one_has_waited() -> None:
    world = World()
    world.round(3)
    world.write()
    assert not world.is_due()
    world.write(2)
    world.sign()
    world.commit = world.history.last
    assert not world.is_due(ROUND_SECONDS)
    for _ in range(2):
        world.write()
        assert not world.is_due(1.0)
        assert world.group.begin_at == world.now + PATIENCE_SECONDS
        world.group.reset()
    world.group.became_primary()
    assert world.is_due(), "a view begins with a signature, whatever there is"
