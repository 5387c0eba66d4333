"""Writes CMS EnvelopedData as KMS does for attested calls: BER with indefinite lengths, OAEP with SHA-256, AES-256-CBC.

Shares no code with the reader in the enclave. Source: RFC 5652, 6; AWS's test data for its own SDK, whose bytes it follows.
"""

import hashlib
import secrets
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHUNK_SIZE_BYTES: Final = 1000

_END: Final = b"\0\0"
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")
_OAEP: Final = bytes.fromhex("303c06092a864886f70d010107302fa00f") + _SHA256 + bytes.fromhex("a11c301a06092a864886f70d010108") + _SHA256


def envelope(plaintext: bytes, key: rsa.RSAPublicKey, *, primitive: bool) -> bytes:
    """Encrypt to a key of 2,048 bits.

    Args:
        primitive: Write the encrypted content in one piece; else as a constructed string of chunks, which AWS does too.
    """
    content_key, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    wrapped = key.encrypt(content_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    identifier = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.PKCS1)).digest()
    recipient = _definite(0x30, b"\x02\x01\x02" + _definite(0x80, identifier) + _OAEP + _definite(0x04, wrapped))
    if primitive:
        content = _definite(0x80, ciphertext)
    else:
        chunks = [ciphertext[start : start + CHUNK_SIZE_BYTES] for start in range(0, len(ciphertext), CHUNK_SIZE_BYTES)]
        content = _indefinite(0xA0, b"".join(_definite(0x04, chunk) for chunk in chunks))
    algorithm = _definite(0x30, bytes.fromhex("060960864801650304012a") + _definite(0x04, iv))
    encrypted = _indefinite(0x30, bytes.fromhex("06092a864886f70d010701") + algorithm + content)
    enveloped = _indefinite(0x30, b"\x02\x01\x02" + _definite(0x31, recipient) + encrypted)
    return _indefinite(0x30, bytes.fromhex("06092a864886f70d010703") + _indefinite(0xA0, enveloped))


def _definite(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _indefinite(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x80)) + content + _END
