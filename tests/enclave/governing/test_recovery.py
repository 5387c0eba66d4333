"""Recovery shares, of which there are none yet: CCF's codes for that."""

from ledgerd.governance import requests
from support.governed import ALICE, BOB, Governed, code, id_of


def test_a_member_has_no_share_yet() -> None:
    assert code(Governed().get(f"/recovery/encrypted-shares/{id_of(ALICE)}")) == (404, "ResourceNotFound")


def test_no_service_waits_for_shares_and_none_is_kept() -> None:
    node = Governed()
    version = node.store.version
    for who in (ALICE, BOB):
        answer = node.send(who, requests.RECOVERY_SHARE, f"/recovery/members/{id_of(ALICE)}:recover", {"share": "c2VjcmV0"})
        assert code(answer) == (403, "ServiceNotWaitingForRecoveryShares")
    assert node.store.version == version
