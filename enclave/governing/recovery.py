"""Recovery shares at `/gov/recovery`: each member's, as the ledger has it; and that no service here waits for any, in CCF's words.

Not here: making them (`enclave.governing.sharing`), recovering.
"""

from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.governing.api import id_in_path, reading, signed
from ledgerd.governance import requests, tables
from ledgerd.governance.descriptions import EncryptedShare, ShareReceived
from ledgerd.ledger.errors import RequestError


def add_to(registry: Registry) -> None:
    """Add the two endpoints."""
    registry.add(
        reading(
            "/recovery/encrypted-shares/{memberId}",
            _share,
            "A member's recovery share, encrypted to it.",
            EncryptedShare,
            {400: "InvalidResourceName", 404: "ResourceNotFound"},
        )
    )
    registry.add(
        signed(
            "/recovery/members/{memberId}:recover",
            _recover,
            'Submit a recovery share; signed is {"share": "BASE64"}.',
            requests.RECOVERY_SHARE,
            {200: ShareReceived},
            {403: "ServiceNotWaitingForRecoveryShares"},
        )
    )


def _share(context: Context) -> Result:
    member_id = id_in_path(context, "memberId")
    record = context.governance(tables.RECOVERY_SHARES).get(tables.SINGLETON)
    share = None if record is None else tables.decode(record)["encrypted_shares"].get(member_id)
    if share is None:
        text = "Active members have one who have an encryption key and take part in recovery, from the opening of the service on."
        raise RequestError(404, "ResourceNotFound", f"There is no recovery share of member {member_id}. {text}")
    return EncryptedShare(memberId=member_id, encryptedShare=share)


def _recover(context: Context) -> Result:
    raise RequestError(403, "ServiceNotWaitingForRecoveryShares", "The service is not waiting for recovery shares; nothing was kept.")
