"""The envelope in which KMS answers an attested call: CMS EnvelopedData, exactly as KMS makes it, and nothing else.

`read` finds its three parts and holds every object identifier and parameter to the one value that KMS uses; `open_envelope` decrypts.
The content is AES-CBC, which authenticates nothing: that the envelope is KMS's own follows from TLS (`enclave.kms.trust`) alone, so what
comes out is believed only because of the connection on which it came.
Source: RFC 5652, 6; RFC 4055, 4.1 (OAEP's parameters); RFC 3565 (AES); AWS's test data for its own SDK.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from ledgerd.enclave.kms import ber
from ledgerd.enclave.kms.ber import Element
from ledgerd.ledger.errors import FormatError, IntegrityError

KEY_SIZE_BITS: Final = 2048  # of the RSA key in the document; KMS takes no other
ENCRYPTED_KEY_SIZE_BYTES: Final = KEY_SIZE_BITS // 8
IV_SIZE_BYTES: Final = 16
BLOCK_SIZE_BYTES: Final = 16
CIPHERTEXT_SIZE_BYTES_MAX: Final = 16 << 10  # KMS encrypts 4,096 bytes at most; its largest private key is below 3,000
CONTENT_KEY_SIZE_BYTES: Final = 32

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_NULL: Final = 0x05
_OBJECT: Final = 0x06
_CONTEXT_0: Final = 0x80
_CONTEXT_0_CONSTRUCTED: Final = 0xA0
_CONTEXT_1_CONSTRUCTED: Final = 0xA1

# Object identifiers, as their content octets.
_ENVELOPED_DATA: Final = bytes.fromhex("2a864886f70d010703")  # 1.2.840.113549.1.7.3
_DATA: Final = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_OAEP: Final = bytes.fromhex("2a864886f70d010107")  # 1.2.840.113549.1.1.7
_MGF1: Final = bytes.fromhex("2a864886f70d010108")  # 1.2.840.113549.1.1.8
_SHA256: Final = bytes.fromhex("608648016503040201")  # 2.16.840.1.101.3.4.2.1
_AES256_CBC: Final = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42

_VERSION: Final = b"\x02"  # of the envelope, and of a recipient named by a key identifier
_KEY_IDENTIFIER_SIZE_BYTES_MAX: Final = 64  # KMS's has 32; which key it means is known, so it is not looked at


class Envelope(NamedTuple):
    """The three parts that matter.

    Attributes:
        encrypted_key: RSAES-OAEP with SHA-256 over the content key, 256 bytes.
        iv: 16 bytes.
        ciphertext: AES-256-CBC with PKCS#7 padding; whole blocks, at least one.
    """

    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes


def read(data: bytes) -> Envelope:
    """Find the parts of `CiphertextForRecipient`.

    Raises: FormatError: It is not the envelope that KMS makes. Nothing is said about who made it.
    """
    content_type, wrapped = _children(ber.read(data), _SEQUENCE, 2, "ContentInfo")
    _expect(content_type, _OBJECT, _ENVELOPED_DATA, "the content type")
    (enveloped,) = _children(wrapped, _CONTEXT_0_CONSTRUCTED, 1, "the content")
    version, recipients, content = _children(enveloped, _SEQUENCE, 3, "EnvelopedData")
    _expect(version, _INTEGER, _VERSION, "EnvelopedData's version")
    (recipient,) = _children(recipients, _SET, 1, "the set of recipients")
    encrypted_key = _recipient(recipient)
    iv, ciphertext = _content(content)
    return Envelope(encrypted_key, iv, ciphertext)


def open_envelope(envelope: Envelope, key: rsa.RSAPrivateKey) -> bytes:
    """Decrypt.

    Raises: IntegrityError: It was not made for this key, or was changed. Which step failed is not told: it would be an oracle.
    """
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    try:
        content_key = key.decrypt(envelope.encrypted_key, oaep)
        if len(content_key) != CONTENT_KEY_SIZE_BYTES:
            raise ValueError
        decryptor = Cipher(algorithms.AES(content_key), modes.CBC(envelope.iv)).decryptor()
        padded = decryptor.update(envelope.ciphertext) + decryptor.finalize()
        unpadder = PKCS7(8 * BLOCK_SIZE_BYTES).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise IntegrityError(
            "the envelope in KMS's answer does not open with the key that this call attested: it is another's, or was changed; ask again"
        ) from None


def _recipient(element: Element) -> bytes:
    version, identifier, algorithm, encrypted_key = _children(element, _SEQUENCE, 4, "the recipient")
    _expect(version, _INTEGER, _VERSION, "the recipient's version")
    if identifier.tag != _CONTEXT_0 or not 0 < len(identifier.content) <= _KEY_IDENTIFIER_SIZE_BYTES_MAX:
        _refuse("the recipient is not named by a subject key identifier")
    name, parameters = _children(algorithm, _SEQUENCE, 2, "the key encryption algorithm")
    _expect(name, _OBJECT, _OAEP, "the key encryption algorithm")
    # The third parameter, a label, is not among KMS's: absent means the empty one.
    digest, mask = _children(parameters, _SEQUENCE, 2, "OAEP's parameters")
    _sha256(_children(digest, _CONTEXT_0_CONSTRUCTED, 1, "OAEP's digest")[0], "OAEP's digest")
    (mask_algorithm,) = _children(mask, _CONTEXT_1_CONSTRUCTED, 1, "OAEP's mask")
    mask_name, mask_digest = _children(mask_algorithm, _SEQUENCE, 2, "OAEP's mask")
    _expect(mask_name, _OBJECT, _MGF1, "OAEP's mask")
    _sha256(mask_digest, "the digest of OAEP's mask")
    if encrypted_key.tag != _OCTETS or len(encrypted_key.content) != ENCRYPTED_KEY_SIZE_BYTES:
        _refuse(f"the encrypted key is not {ENCRYPTED_KEY_SIZE_BYTES} bytes")
    return encrypted_key.content


def _content(element: Element) -> tuple[bytes, bytes]:
    content_type, algorithm, encrypted = _children(element, _SEQUENCE, 3, "the encrypted content")
    _expect(content_type, _OBJECT, _DATA, "the type of the encrypted content")
    name, iv = _children(algorithm, _SEQUENCE, 2, "the content's algorithm")
    _expect(name, _OBJECT, _AES256_CBC, "the content's algorithm")
    if iv.tag != _OCTETS or len(iv.content) != IV_SIZE_BYTES:
        _refuse(f"the initialisation vector is not {IV_SIZE_BYTES} bytes")
    if encrypted.tag == _CONTEXT_0:
        ciphertext = encrypted.content
    elif encrypted.tag == _CONTEXT_0_CONSTRUCTED and all(part.tag == _OCTETS for part in encrypted.children):
        ciphertext = b"".join(part.content for part in encrypted.children)
    else:
        _refuse("the encrypted content is no octet string")
    if not 0 < len(ciphertext) <= CIPHERTEXT_SIZE_BYTES_MAX or len(ciphertext) % BLOCK_SIZE_BYTES:
        _refuse(f"the encrypted content has {len(ciphertext)} bytes; whole blocks of {BLOCK_SIZE_BYTES} are expected")
    return iv.content, ciphertext


def _sha256(element: Element, what: str) -> None:
    """An AlgorithmIdentifier of SHA-256, with NULL or without parameters: RFC 4055, 2.1 wants both accepted."""
    if element.tag != _SEQUENCE or len(element.children) not in (1, 2):
        _refuse(f"{what} is no algorithm")
    _expect(element.children[0], _OBJECT, _SHA256, what)
    for parameters in element.children[1:]:
        _expect(parameters, _NULL, b"", f"the parameters of {what}")


def _children(element: Element, tag: int, count: int, what: str) -> Sequence[Element]:
    if element.tag != tag or len(element.children) != count:
        _refuse(f"{what} has identifier {element.tag:#04x} and {len(element.children)} parts, not {tag:#04x} and {count}")
    return element.children


def _expect(element: Element, tag: int, content: bytes, what: str) -> None:
    if element.tag != tag or element.content != content:
        _refuse(f"{what} is {element.content[:16].hex() or 'empty'}, not {content.hex() or 'empty'}")


def _refuse(what: str) -> NoReturn:
    raise FormatError(f"the envelope in KMS's answer is not one that KMS makes: {what}")
