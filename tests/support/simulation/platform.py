"""The simulated platform under all whole enclaves of this process, and signatures that stand in for theirs.

The platform is the same in every world: its keys are no more of a run than AWS's are of a service. Every world begins at the same time, so
certificates that were made then are valid in each. Certificates are real, and signed by ECDSA; what their keys sign beside them (ledgers
and attestation documents) `stand_in` signs, unless a run has real cryptography.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave import replica, serving
from ledgerd.enclave.group_commit import GroupCommit
from ledgerd.ledger.attestation import nitro
from ledgerd.ledger.ids import NodeId
from ledgerd.node.simulator.pki import Chain, Signer, SimulatedRoot, make_root
from support.simulation import drawn, stand_in
from support.simulation.patches import Change, patched

BEGAN: Final = 1_800_000_000.0  # seconds since 1970, by the platform's clock
_FIRST: Final = ("i-00000000000000001", "enc0000000000000001")


@lru_cache(maxsize=1)
def root() -> SimulatedRoot:
    with patched(drawn.platform("root")):
        return make_root(datetime.fromtimestamp(BEGAN, UTC))


@lru_cache(maxsize=64)
def chain(instance_id: str, enclave_id: str, crypto: str) -> Chain:
    """A node's certificates, down to what signs its documents, as they were when its world began."""
    made: Chain = _CHAINS[crypto](root(), instance_id, enclave_id)
    if instance_id != _FIRST[0]:
        made._authorities = chain(*_FIRST, crypto)._authorities[:2]  # one region, one zone
    with patched(drawn.platform(f"{instance_id} {enclave_id}")):
        made.leaf(datetime.fromtimestamp(BEGAN, UTC))
    return made


class _StandInChain(Chain):
    """Its leaf, which signs documents, does so with a key that stands in for the one that its certificate names."""

    def _make_leaf(self, begin: datetime) -> Signer:
        real = super()._make_leaf(begin)
        return Signer(_signing(real.key), real.certificate)


_CHAINS: Final[dict[str, type[Chain]]] = {"real": Chain, "stand-in": _StandInChain}


def _signing(real: ec.EllipticCurvePrivateKey) -> Any:
    return stand_in.PrivateKey(stand_in.PublicKey.of(real.public_key()))


def verifying(real: ec.EllipticCurvePublicKey) -> Any:
    """What verifies in the place of a key that a certificate names."""
    return stand_in.PublicKey.of(real)


def signatures() -> list[Change]:
    """Signatures of ledgers and of attestation documents stand in for ECDSA's; those of certificates stay."""
    key_of, verify_chain = replica._key, nitro._verify_chain

    def group_commit(node_id: NodeId, node_key: Any, certificate: str, service_key: Any) -> GroupCommit:
        return GroupCommit(node_id, _signing(node_key), certificate, _signing(service_key))

    def stand_in_chain(*arguments: Any) -> tuple[Any, Any]:
        root, leaf = verify_chain(*arguments)
        return root, verifying(leaf)

    return [
        (serving, "GroupCommit", group_commit),
        (replica, "_key", lru_cache(maxsize=64)(lambda pem: verifying(key_of(pem)))),
        (nitro, "_verify_chain", stand_in_chain),
    ]
