"""What one node knows of the ledger's secrets, entry by entry; without a ledger."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from ledgerd.enclave.admission import encryption_key_pem
from ledgerd.enclave.keys import NodeKeys
from ledgerd.enclave.ledger_secrets import LedgerSecret, LedgerSecrets, boxed, checked
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.ids import Seqno

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
OWN, OTHER = NodeKeys("secp256r1"), NodeKeys("secp256r1")


def announcing(secret: bytes, *nodes: NodeKeys) -> WriteSet:
    """What an entry writes that changes the secret."""
    boxes = {node.id: boxed(secret, encryption_key_pem(node.encryption_public)) for node in nodes}
    record = {name: [{"encrypted_secret": base64.b64encode(box).decode()}] for name, box in boxes.items()}
    return {tables.ENCRYPTED_LEDGER_SECRETS: {tables.SINGLETON: tables.encode(record)}}


def test_a_secret_is_taken_from_ones_own_box_and_holds_from_the_next_entry_on() -> None:
    secrets = LedgerSecrets(OWN, [(1, FIRST)])
    before = secrets.sealer.seal(2, 5, {"records": {b"k": b"v"}}).data
    secrets.applied(Seqno(5), announcing(SECOND, OTHER, OWN))
    after = secrets.sealer.seal(2, 6, {"records": {b"k": b"w"}}).data
    assert secrets.known() == [LedgerSecret(1, FIRST), LedgerSecret(6, SECOND)]
    alone = LedgerSecrets(OWN, [(1, FIRST)])
    assert alone.sealer.open(before).writes == {"records": {b"k": b"v"}}
    with pytest.raises(IntegrityError, match="belong to another epoch"):
        alone.sealer.open(after)
    assert secrets.sealer.open(before).writes["records"][b"k"] == b"v"
    assert secrets.sealer.open(after).writes["records"][b"k"] == b"w"


def test_what_is_undone_is_given_up_and_the_same_entry_may_bring_another() -> None:
    secrets = LedgerSecrets(OWN, [(1, FIRST)])
    secrets.applied(Seqno(5), announcing(SECOND, OWN))
    secrets.rolled_back(Seqno(5))
    assert [known.version for known in secrets.known()] == [1, 6]
    secrets.rolled_back(Seqno(4))
    assert secrets.known() == [LedgerSecret(1, FIRST)]
    secrets.applied(Seqno(5), announcing(THIRD, OWN))
    assert secrets.known()[-1] == LedgerSecret(6, THIRD)
    assert secrets.sealer.open(sealed_elsewhere(THIRD, 6)).seqno == 6


def sealed_elsewhere(secret: bytes, version: int) -> bytes:
    """Entry `version` of a node whose newest secret is this one."""
    secrets = LedgerSecrets(OTHER, [(1, FIRST)])
    secrets.applied(Seqno(version - 1), announcing(secret, OTHER))
    return secrets.sealer.seal(3, version, {}).data


def test_a_joiner_takes_what_it_was_given_at_its_place_and_a_box_of_its_own_before_that() -> None:
    given = LedgerSecrets(OWN, [(1, FIRST), (6, SECOND), (9, SECOND)])
    assert [known.version for known in given.known()] == [1], "it has read nothing yet"
    given.applied(Seqno(5), announcing(SECOND, OTHER))
    assert given.known()[-1] == LedgerSecret(6, SECOND)
    given.applied(Seqno(8), announcing(THIRD, OWN))
    assert given.known()[-1] == LedgerSecret(9, THIRD)
    given.rolled_back(Seqno(3))
    given.applied(Seqno(5), announcing(SECOND, OTHER))
    assert given.known()[-1] == LedgerSecret(6, SECOND), "it is given what was, as often as it needs it"


def test_without_a_secret_a_node_stops_and_says_why() -> None:
    secrets = LedgerSecrets(OWN, [(1, FIRST), (7, SECOND)])
    with pytest.raises(IntegrityError, match=r"entry 5 changes the ledger's secret, and has none for this node.*let a new node join"):
        secrets.applied(Seqno(5), announcing(SECOND, OTHER))
    with pytest.raises(IntegrityError, match="has none for this node"):
        secrets.applied(Seqno(5), {tables.ENCRYPTED_LEDGER_SECRETS: {tables.SINGLETON: None}})


@pytest.mark.parametrize(
    "box",
    [
        [{"encrypted_secret": "AAAA"}],
        [{"encrypted_secret": "no base64"}],
        [{"encrypted_secret": 7}],
        [{}],
        [],
        "text",
        [{"encrypted_secret": "?"}],
    ],
)
def test_a_box_that_does_not_open_stops_the_node(box: Any) -> None:
    secrets = LedgerSecrets(OWN, [(1, FIRST), (6, SECOND)])
    with pytest.raises(IntegrityError, match="cannot open the box"):
        secrets.applied(Seqno(5), {tables.ENCRYPTED_LEDGER_SECRETS: {tables.SINGLETON: tables.encode({OWN.id: box})}})
    assert [known.version for known in secrets.known()] == [1]


def test_a_box_opens_with_the_nodes_own_key_only() -> None:
    key = PrivateKey.generate()
    box = boxed(SECOND, encryption_key_pem(bytes(key.public_key)))
    assert SealedBox(key).decrypt(box) == SECOND
    with pytest.raises(CryptoError):
        SealedBox(PrivateKey.generate()).decrypt(box)
    for pem in (
        "-----BEGIN PUBLIC KEY-----",
        "",
        OWN.identity.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    ):
        with pytest.raises(FormatError, match="no X25519 key"):
            boxed(SECOND, pem)


@pytest.mark.parametrize(
    "given",
    [
        [],
        None,
        [[2, FIRST]],
        [[1, FIRST], [1, SECOND]],
        [[1, FIRST], [9, SECOND], [6, THIRD]],
        [[1, b"short"]],
        [[1, "text"]],
        [[1.0, FIRST]],
        [[True, FIRST]],
        [[1, FIRST, 3]],
        {1: FIRST},
    ],
)
def test_what_can_be_no_ledgers_secrets_is_refused(given: Any) -> None:
    with pytest.raises(FormatError):
        checked(given)


def test_what_can_be_is_taken() -> None:
    assert checked([[1, FIRST], [6, SECOND]]) == [(1, FIRST), (6, SECOND)]
    with pytest.raises(UsageError):
        LedgerSecrets(OWN, [(6, SECOND)])


def test_nothing_shows_a_secret() -> None:
    secrets = LedgerSecrets(OWN, [(1, FIRST)])
    secrets.applied(Seqno(5), announcing(SECOND, OWN))
    for thing in (secrets, *secrets.known(), secrets.sealer, secrets.known()):
        for secret in (FIRST, SECOND):
            assert repr(secret)[2:-1] not in repr(thing)
            assert secret.hex() not in repr(thing)
    assert repr(secrets) == "LedgerSecrets(1, 6)"
