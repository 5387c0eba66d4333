"""The certificates that a node shows: the service's endorsement of its key, and the service's own, as the ledger has them now.

Members renew both by vote. Keys stay: whoever pinned the service's key, or an older certificate of it, goes on; sessions that are open
keep what they were opened with.
Law: a certificate that is not of the node's or the service's own key is not shown, whatever a constitution has written.
Not here: making certificates (`enclave.keys`), asking for them (`enclave.governing.calls`).
"""

from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.keys import NodeKeys, ServiceKeys, parse_certificate, spki
from ledgerd.enclave.kv import Store
from ledgerd.governance import tables
from ledgerd.ledger.errors import FormatError


class ShownCertificates:
    """What one node shows.

    Args:
        log: Tells the operator.

    Attributes:
        node: The certificate of the node's key, by the service.
        service: The service's keys, with its present certificate.
    """

    def __init__(self, keys: NodeKeys, node: x509.Certificate, service: ServiceKeys, log: Callable[[str, str], None]) -> None:
        self.node = node
        self.service = service
        self._keys = keys
        self._log = log
        self._records = (self.node_pem.encode(), service.certificate_pem)

    @property
    def node_pem(self) -> str:
        """The node's certificate, PEM."""
        return self.node.public_bytes(Encoding.PEM).decode()

    @property
    def chain(self) -> list[x509.Certificate]:
        """For clients: the node's certificate, the service's."""
        return [self.node, self.service.certificate]

    def learn(self, store: Store) -> bool:
        """Look whether the tables have others than are shown; True if those are shown from now on."""
        own = store.get(tables.NODE_ENDORSED_CERTIFICATES, self._keys.id.encode())
        info = store.get(tables.SERVICE_INFO, tables.SINGLETON)
        if own is None or info is None:
            return False  # a joiner that reads what was before its time: it was given newer ones
        service = str(tables.decode(info)["cert"])
        if (own, service) == self._records:
            return False
        self._records = (own, service)
        try:
            node_certificate = _of_key(own.decode(errors="replace"), self._keys.public)
            service_certificate = _of_key(service, self.service.public)
        except FormatError as error:
            self._log("error", f"the certificates of before are shown, since those in the ledger are not for this node: {error}")
            return False
        self.node = node_certificate
        self.service = ServiceKeys(self.service.identity, service_certificate)
        until = min(certificate.not_valid_after_utc for certificate in self.chain)
        self._log("info", f"new certificates are shown, valid until {until:%Y-%m-%dT%H:%M:%SZ}")
        return True


def _of_key(pem: str, public: bytes) -> x509.Certificate:
    """The certificate of a key that is known. Raises: FormatError: It is none, or of another key."""
    certificate = parse_certificate(pem)
    try:
        key = certificate.public_key()
    except Exception:  # the library's list of what it raises for strange keys is long
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or spki(key) != public:
        raise FormatError("a certificate of another key")
    return certificate
