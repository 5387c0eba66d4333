"""Attestation documents for clients: made for the nonce of whoever asks, with the service and its beginning bound in.

Not here: documents that nodes show each other (`enclave.joining`, `enclave.admission`), the endpoint (`enclave.frontend`).
"""

import base64
from collections.abc import Callable
from typing import Any, Final

from ledgerd.enclave import refusals
from ledgerd.enclave.frontend import attestation_object
from ledgerd.enclave.host_rejects import DOCUMENT, HostRejects
from ledgerd.enclave.keys import NodeKeys
from ledgerd.enclave.nsm import Nsm, attestation
from ledgerd.enclave.replica import Replica
from ledgerd.enclave.requests import JSON, Response
from ledgerd.enclave.status import Status
from ledgerd.governance import tables
from ledgerd.ledger.attestation.binding import service_digest

DOCUMENTS_MAX: Final = 64  # asked of the security module at one time, some milliseconds each; anybody may ask


class Documents:
    """The documents of one node.

    Args:
        submit: Runs work with the security module in a thread, and hands its result, or the exception that it raised, over later.
        answer: Answers whoever waits.
    """

    def __init__(
        self,
        status: Status,
        keys: NodeKeys,
        replica: Replica,
        rejects: HostRejects,
        submit: Callable[[Callable[[Nsm], object], Callable[[Any], None]], None],
        answer: Callable[[object, Response], None],
    ) -> None:
        self._status = status
        self._keys = keys
        self._replica = replica
        self._rejects = rejects
        self._submit = submit
        self._answer = answer
        self._waiting = 0

    def give(self, reply_to: object, nonce: bytes | None) -> None:
        """Answer with a document for this nonce; without one, with the node's own, which says nothing of the service."""
        genesis = self._replica.genesis_digest
        settings = self._status.settings
        if nonce is None or genesis is None:
            self._show(reply_to, self._status.attested.document, settings)
            return
        if self._waiting >= DOCUMENTS_MAX:
            self._answer(reply_to, refusals.BUSY)
            return
        self._waiting += 1
        user_data = service_digest(self._status.service.public, genesis, self._status.attested.accepts, settings)
        public_key = self._keys.public

        def done(result: Any) -> None:
            self._waiting -= 1
            if isinstance(result, Exception):
                self._rejects.count(DOCUMENT, f"the security module gave no document: {result}")
                self._answer(reply_to, refusals.NO_DOCUMENT)
            else:
                self._show(reply_to, result, settings)

        self._submit(lambda nsm: attestation(nsm, user_data=user_data, nonce=nonce, public_key=public_key), done)

    def _show(self, reply_to: object, document: bytes, settings: dict[str, Any]) -> None:
        status, attested = self._status, self._status.attested
        shown = attestation_object(self._keys.id, base64.b64encode(document).decode(), attested.pcr0.hex(), attested.simulated)
        shown["accepts"] = attested.accepts
        shown["settings"] = settings
        shown["service_certificate"] = status.service.certificate_pem
        shown["configuration"] = status.configuration.relevant(status.service.public)
        genesis = self._replica.genesis_digest
        if genesis is not None:
            shown["genesis_digest"] = genesis.hex()
        self._answer(reply_to, Response(200, (), tables.encode(shown), JSON))
