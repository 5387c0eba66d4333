"""State digests and their acknowledgement, by which a member becomes active: `/gov/members/state-digests`.

Law: a member is active from the entry that holds its signature over a root of this very ledger.
Not here: the form of the records (`governance.acks`), the recovery shares that are made here (`enclave.governing.renewal`).
"""

from typing import Any, Final, Protocol

from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.governing.api import id_in_path, reading, record_request, request_of, signed, signer_in_path
from ledgerd.enclave.governing.renewal import Renewal
from ledgerd.governance import acks, requests, tables
from ledgerd.governance.descriptions import StateDigest
from ledgerd.ledger.errors import FormatError, RequestError
from ledgerd.ledger.signature import SIGNATURES

# CCF's code of a path that names another member differs between endpoints; of these two it is that of authentication.
_OTHER_SIGNER: Final = "InvalidAuthenticationInfo"


class Node(Protocol):
    """What acknowledgement asks of the node that it runs on."""

    def log(self, level: str, text: str) -> None: ...


class Acknowledgement:
    """The three endpoints."""

    def __init__(self, node: Node, renewal: Renewal) -> None:
        self._node = node
        self._renewal = renewal

    def add_to(self, registry: Registry) -> None:
        """Add them."""
        path = "/members/state-digests/{memberId}"
        registry.add(
            reading(
                path,
                self._show,
                "The state digest that a member is to acknowledge, or has.",
                StateDigest,
                {400: "InvalidResourceName", 404: "ResourceNotFound"},
            )
        )
        registry.add(
            signed(
                path + ":update",
                self._update,
                "Ask for the digest of the present state; signed with an empty payload.",
                requests.STATE_DIGEST,
                {200: StateDigest},
                {400: "InvalidAuthenticationInfo, InvalidResourceName", 500: "InternalError"},
                active=False,
            )
        )
        registry.add(
            signed(
                path + ":ack",
                self._acknowledge,
                'Acknowledge the digest; signed is {"stateDigest": "..."}. The member is active from then on.',
                requests.ACK,
                {204: None},
                {
                    400: "InvalidAuthenticationInfo, InvalidInput, InvalidResourceName, StateDigestMismatch",
                    403: "AuthorizationFailed",
                },
                active=False,
            )
        )

    def _show(self, context: Context) -> Result:
        member_id = id_in_path(context, "memberId")
        value = context.governance(tables.MEMBER_ACKS).get(member_id.encode())
        if value is None:
            raise RequestError(404, "ResourceNotFound", f"No state digest was made for member {member_id}; it asks for one with :update.")
        return StateDigest(memberId=member_id, stateDigest=tables.decode(value)["state_digest"])

    def _update(self, context: Context) -> Result:
        member_id = signer_in_path(context, _OTHER_SIGNER)
        last = context.governance(SIGNATURES).get(tables.SINGLETON)
        if last is None:
            raise RequestError(500, "InternalError", "The service has signed nothing yet that could be acknowledged. Ask again.")
        digest: str = tables.decode(last)["root"]
        records = context.kv[tables.MEMBER_ACKS]
        before = records.get(member_id.encode())
        record = acks.asked(None if before is None else tables.decode(before), digest)
        records.set(member_id.encode(), tables.encode(record))
        return StateDigest(memberId=member_id, stateDigest=digest)

    def _acknowledge(self, context: Context) -> Result:
        member_id = signer_in_path(context, _OTHER_SIGNER)
        key = member_id.encode()
        records = context.kv[tables.MEMBER_ACKS]
        value = records.get(key)
        if value is None:
            text = f"No state digest was made for member {member_id}. Ask for one with :update, compare, and sign it."
            raise RequestError(403, "AuthorizationFailed", text)
        record: dict[str, Any] = tables.decode(value)
        request = request_of(context)
        try:
            digest = requests.field_of(request.payload, acks.STATE_DIGEST)
        except FormatError as error:
            raise RequestError(400, "InvalidInput", f"An acknowledgement is not of that form: {error}.") from None
        if digest != record["state_digest"]:
            raise RequestError(
                400,
                "StateDigestMismatch",
                f"Submitted state digest is not valid: expected {record['state_digest']}, received {digest[:64]!r}. "
                "A newer one was asked for since: compare that, and sign it.",
            )
        members = context.kv[tables.MEMBER_INFO]
        value = members.get(key)
        assert value is not None, "the policy has found the member"
        info: dict[str, Any] = tables.decode(value)
        is_active = info["status"] == tables.ACTIVE
        if is_active and acks.is_signed(record):
            return None  # said before, and published since: whoever repeats it must not grow the ledger
        records.set(key, tables.encode(acks.signed(record, request.envelope)))
        record_request(context, request)
        if not is_active:
            members.set(key, tables.encode({**info, "status": tables.ACTIVE}))
            self._renewal.member_activated(context, member_id)
            self._node.log("info", f"member {member_id[:16]}... acknowledges state {digest[:16]}..., and is active")
        return None
