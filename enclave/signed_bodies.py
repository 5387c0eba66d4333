"""Policies of requests whose body is signed: a COSE_Sign1 of a user's or a member's, whoever has sent it and over whatever session.

Law: the tables say whose key it is, at every request; the session's certificate does not matter.
Texts are CCF's. Two rules are ours: what a member has signed for the service itself (`ccf.gov.msg.type`) is no application's to receive,
for anybody could carry it there; and a body that is no COSE_Sign1 is refused as any other, with 401.
Not here: the form of members' requests to the service (`governance.requests`), COSE (`ledger.cose`).
"""

from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave.callers import Caller, Policy, Tables, field_of
from ledgerd.enclave.keys import parse_certificate
from ledgerd.enclave.requests import COSE, Request
from ledgerd.governance import requests, tables
from ledgerd.ledger import cose
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError

_CHALLENGE: Final = 'COSE-SIGN1 realm="Signed request access"'
_ALGORITHMS: Final = (-7, -35, -36)  # ES256, ES384, ES512
_ID_LENGTH: Final = 64


def signed_by_member(kind: str, *, active: bool = True) -> Policy:
    """The policy of an endpoint of `/gov` whose body is a member's request.

    Args:
        kind: What the request must say that it is, one of `requests.TYPES`.
        active: The member must be Active; otherwise one that has not acknowledged yet is taken, too.
    """

    def authenticate(request: Request, store: Tables) -> Caller | str:
        refusal = _content_type(request)
        if refusal is not None:
            return refusal
        try:
            signed = requests.read(request.body)
        except FormatError as error:
            return f"Failed to parse the signed request: {error}"
        key = signed.member_id.encode()
        certificate, info = store.get(tables.MEMBER_CERTS, key), store.get(tables.MEMBER_INFO, key)
        if certificate is None or info is None:
            return "Signer is not a known member"
        try:
            requests.verify(signed, parse_certificate(certificate.decode()))
        except IntegrityError as error:
            return f"Failed to verify the signed request: {error}"
        if signed.kind != kind:
            return f"The request is signed as a {signed.kind}, not as a {kind}: {requests.HEADER_TYPE} must say {kind}"
        member = tables.decode(info)
        if active and member["status"] != tables.ACTIVE:
            return "Signer is not an active member"
        return Caller("member_cose_sign1", signed.member_id, None, lambda: member.get("member_data"), signed, content=signed.payload)

    return Policy("member_cose_sign1", authenticate, reads_tables=True, security=_scheme("member"), challenge=_CHALLENGE)


def signed_body(name: str, role: str, certificates: str, info: str, data: str) -> Policy:
    """The policy of an application's endpoint whose body is signed.

    Args:
        name: Of the policy.
        role: `user` or `member`. A member must say when it has signed, as everywhere in governance.
        certificates, info, data: Where its certificate and its data are.
    """
    unknown = f"Signer is not a known {role}"

    def authenticate(request: Request, store: Tables) -> Caller | str:
        refusal = _content_type(request)
        if refusal is not None:
            return refusal
        try:
            message, caller_id = _read(request.body, is_member=role == "member")
        except FormatError as error:
            return f"Failed to parse COSE Sign1: {error}"
        algorithm = message.protected.get(cose.HEADER_ALGORITHM)
        if type(algorithm) is not int or algorithm not in _ALGORITHMS:
            return f"Unsupported algorithm: {algorithm!r:.32}"
        key = caller_id.encode()
        certificate = store.get(certificates, key)
        if certificate is None:
            return unknown
        try:
            public = parse_certificate(certificate.decode()).public_key()
            if not isinstance(public, ec.EllipticCurvePublicKey):
                return "Failed to validate COSE Sign1: the signer's registered key is on no elliptic curve"
            content = cose.verify(message, public)
        except (LedgerdError, UnicodeDecodeError) as error:
            return f"Failed to validate COSE Sign1: {error}"
        return Caller(name, caller_id, None, partial(field_of, store, info, key, data), registered=certificate, content=content)

    return Policy(name, authenticate, reads_tables=True, security=_scheme(role), challenge=_CHALLENGE)


def _content_type(request: Request) -> str | None:
    """Why the body cannot be one, by what it is said to be."""
    content_type = request.headers.get("content-type")
    if content_type is None:
        return "Missing content-type header"
    return None if content_type == COSE else f"Content type is not set to {COSE}"


def _read(body: bytes, *, is_member: bool) -> tuple[cose.Sign1, str]:
    """The message, and the id of whom it claims to be from. Raises: FormatError: It is none that an application can be given."""
    message = cose.decode(body, indefinite=True)
    header = message.protected
    key_id, created_at = header.get(cose.HEADER_KEY_ID), header.get(requests.HEADER_CREATED_AT)
    if message.payload is None:
        raise FormatError("the payload is detached; it must be attached")
    if not isinstance(key_id, bytes) or len(key_id) != _ID_LENGTH or not key_id.isalnum():
        raise FormatError(f"the protected header has no kid (4) of {_ID_LENGTH} hexadecimal digits: the id of the signer")
    if is_member and (type(created_at) is not int or created_at < 0):
        raise FormatError(f"the protected header has no {requests.HEADER_CREATED_AT} in seconds since 1970")
    kind = header.get(requests.HEADER_TYPE)  # also of users: one certificate may be a member's and a user's
    if isinstance(kind, str) and kind in requests.TYPES:
        raise FormatError(f"{requests.HEADER_TYPE} says that it is for the service itself, not for an application")
    return message, key_id.decode()


def _scheme(role: str) -> dict[str, str]:
    return {
        "type": "http",
        "scheme": "cose_sign1",
        "description": f"The body is a COSE_Sign1 with CCF's headers, by the key of a {role} of this service.",
    }
