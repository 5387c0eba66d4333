"""All that the functions need of others, and what of it cannot be put off: for `enclave.runtime.later`.

A test imports the functions in an interpreter of its own and compares. Names that another version of the library or of Python has no use
for do no harm: they are read for nothing, or are not there.
"""

from typing import Final

AT_ONCE: Final = (
    "cryptography.hazmat.bindings._rust",
    "_cffi_backend",
    *("_ast", "_bisect", "_locale", "_opcode", "_random", "_sha2", "_sha512", "_string", "binascii", "math"),
    "threading",  # asks the system for this thread's number
)
"""Machine code, and what asks for more when it is imported than a worker may later."""

_STANDARD: Final = """
    __future__ _weakrefset ast base64 bisect calendar copy dataclasses dis email email._parseaddr email.base64mime email.charset
    email.encoders email.errors email.quoprimime email.utils hmac importlib.machinery inspect ipaddress linecache locale opcode quopri
    random string threading token tokenize urllib urllib.parse weakref
"""
_CRYPTOGRAPHY: Final = """
    __about__ exceptions hazmat hazmat._oid hazmat.backends hazmat.backends.openssl hazmat.backends.openssl.backend hazmat.bindings
    hazmat.bindings.openssl hazmat.bindings.openssl._conditional hazmat.bindings.openssl.binding hazmat.decrepit hazmat.decrepit.ciphers
    hazmat.decrepit.ciphers.algorithms hazmat.decrepit.ciphers.modes hazmat.primitives hazmat.primitives._asymmetric
    hazmat.primitives._cipheralgorithm hazmat.primitives._modes hazmat.primitives._serialization hazmat.primitives.asymmetric
    hazmat.primitives.asymmetric.dh hazmat.primitives.asymmetric.dsa hazmat.primitives.asymmetric.ec hazmat.primitives.asymmetric.ed25519
    hazmat.primitives.asymmetric.ed448 hazmat.primitives.asymmetric.mldsa hazmat.primitives.asymmetric.mlkem
    hazmat.primitives.asymmetric.padding hazmat.primitives.asymmetric.rsa hazmat.primitives.asymmetric.types
    hazmat.primitives.asymmetric.utils hazmat.primitives.asymmetric.x25519 hazmat.primitives.asymmetric.x448 hazmat.primitives.ciphers
    hazmat.primitives.ciphers.algorithms hazmat.primitives.ciphers.base hazmat.primitives.ciphers.modes hazmat.primitives.constant_time
    hazmat.primitives.hashes hazmat.primitives.keywrap hazmat.primitives.serialization hazmat.primitives.serialization.base
    hazmat.primitives.serialization.ssh utils x509 x509.base x509.certificate_transparency x509.extensions x509.general_name x509.name
    x509.oid x509.verification
"""
_OPENSSL: Final = "OpenSSL OpenSSL.SSL OpenSSL._util OpenSSL.crypto OpenSSL.version typing_extensions"
_OURS: Final = """
    ledger.attestation ledger.attestation.errors ledger.attestation.items ledger.attestation.certificates ledger.attestation.snp
    ledger.attestation.uvm enclave.runtime.crypto.attestation enclave.runtime.crypto.certificates enclave.runtime.crypto.digests
    enclave.runtime.crypto.jwk enclave.runtime.crypto.keys enclave.runtime.crypto.signatures enclave.runtime.crypto.wrapping enclave.jwt
    enclave.jwt.keys
"""

MODULES: Final = (
    *_STANDARD.split(),
    "cryptography",
    *(f"cryptography.{name}" for name in _CRYPTOGRAPHY.split()),
    *_OPENSSL.split(),
    *(f"ledgerd.{name}" for name in _OURS.split()),
)
"""Packages before what is in them."""
