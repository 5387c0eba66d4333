"""A node's public name: its TLS key opened at start from what the host kept, or made and sealed when there is nothing yet.

1. Nothing sealed: a key is made and sealed; the sealed file and the request for an authority go out as notices.
2. Sealed, and no chain: the request goes out again, until the host brings what the authority answered.
3. Sealed, with a chain for this key and name: clients that ask for the name are served with it.
What goes wrong is logged and stops nothing: the node serves without the public name, under the service's own certificate as ever.
Not here: the calls to KMS (`enclave.kms.client`), the blob (`enclave.kms.sealed`), choosing by name (`enclave.tls`).
"""

import base64
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.keys import at_milliseconds
from ledgerd.enclave.kms import sealed, tls_secret
from ledgerd.enclave.kms.calls import KeyArn
from ledgerd.enclave.kms.sealed import Ask, Opened
from ledgerd.enclave.kms.tls_secret import PURPOSE_PREFIX, TlsSecret
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError

SEALED_NOTICE: Final = "public_name_sealed"  # base64 of the blob; the host keeps it
REQUEST_NOTICE: Final = "public_name_request"  # PEM of the request for the authority


class PublicNameConfiguration(NamedTuple):
    """What the host says of it.

    Attributes:
        name: DNS name.
        key: KMS's key under which the TLS key is sealed.
        sealed: The blob that was kept; None at the first start.
        chain: What the authority answered, PEM; empty before.
    """

    name: str
    key: KeyArn
    sealed: bytes | None
    chain: str


class Listener(Protocol):
    """Told what comes of it."""

    def serve_name(self, name: str, chain: tuple[x509.Certificate, ...], key: EllipticCurvePrivateKey) -> None: ...
    def notice(self, name: str, text: str) -> None: ...
    def log(self, level: str, text: str) -> None: ...
    def sealed_refused(self, error: LedgerdError) -> None: ...


class PublicName:
    """One node's way to its public name."""

    def __init__(
        self, configuration: PublicNameConfiguration, ask: Ask, service_public: bytes, now_ms: Callable[[], int], listener: Listener
    ) -> None:
        """Begin.

        Args:
            ask: `KmsClient.ask`.
            service_public: The service's DER SubjectPublicKeyInfo; what is sealed for another service does not open.
            now_ms: The attested clock.
        """
        self._configuration = configuration
        self._now_ms = now_ms
        self._listener = listener
        binding = sealed.bind(configuration.key, PURPOSE_PREFIX + configuration.name, service_public)
        if configuration.sealed is None:
            secret = tls_secret.create()
            sealed.seal_by(ask, binding, tls_secret.encode(secret), now_ms(), lambda result: self._kept(secret, result))
        else:
            sealed.open_by(ask, binding, configuration.sealed, self._opened)

    def _kept(self, secret: TlsSecret, result: bytes | LedgerdError) -> None:
        name = self._configuration.name
        if isinstance(result, LedgerdError):
            self._listener.log("warning", f"the key for the public name {name} cannot be sealed, so none is used: {result}")
            return
        # Before it is kept it must not be certified: the certificate would be of a key that the next start does not have.
        self._listener.notice(SEALED_NOTICE, base64.b64encode(result).decode())
        self._ask_for_certificate(secret)

    def _opened(self, result: Opened | LedgerdError) -> None:
        name, chain = self._configuration.name, self._configuration.chain
        try:
            if isinstance(result, LedgerdError):
                if isinstance(result, FormatError | IntegrityError):  # not KMS's refusal: what the host gave is not what it was given
                    self._listener.sealed_refused(result)
                raise result
            secret = tls_secret.decode(result.secret)
            if not chain:
                self._ask_for_certificate(secret)
                return
            complete = secret.with_chain(chain, name, at_milliseconds(self._now_ms()))
            self._listener.serve_name(name, complete.chain, complete.key)
        except LedgerdError as error:
            self._listener.log("warning", f"this node does not serve the public name {name}: {error}")
        except Exception as error:  # TLS does not take what the host brought, for one of its own reasons: the node lives without
            self._listener.log("warning", f"this node does not serve the public name {name}: TLS does not take it ({type(error).__name__})")
        else:
            self._listener.log("info", f"this node serves the public name {name}")

    def _ask_for_certificate(self, secret: TlsSecret) -> None:
        name = self._configuration.name
        self._listener.notice(REQUEST_NOTICE, secret.request(name).public_bytes(Encoding.PEM).decode())
        self._listener.log("info", f"have an authority certify the request for {name}, and start again with its chain in the configuration")
