"""Issuers of tokens: keys, key sets, rows of the table, and tokens, well-formed or not."""

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from support.cluster import Cluster
from support.executing import NOW_S
from support.members import SIGNED_AT, send

ISSUER: Final = "https://issuer.example/v2"
NOW: Final = NOW_S  # attested time of the tests' nodes
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_CURVES: Final[dict[str, ec.EllipticCurve]] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_HASHES: Final = {"RS256": hashes.SHA256(), "ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}


@cache  # making an RSA key takes a tenth of a second
def key(kind: str, number: int = 0) -> PrivateKey:
    """One of as many keys as wanted: `RSA`, `RSA-1024`, or on the curve of that name."""
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind[4:] or 2048))
    return ec.generate_private_key(_CURVES[kind])


def b64url(data: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int | None = None) -> str:
    """As JWK has numbers."""
    return b64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def jwk(private: PrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """The public half, by its numbers."""
    public = private.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "kid": kid, "n": number(numbers.n), "e": number(numbers.e), **more}
    point, size = public.public_numbers(), (public.key_size + 7) // 8
    curve = next(name for name, known in _CURVES.items() if known.name == public.curve.name)
    return {"kty": "EC", "kid": kid, "crv": curve, "x": number(point.x, size), "y": number(point.y, size), **more}


def certificate(private: PrivateKey) -> str:
    """A certificate over the key by itself, as in x5c; long expired."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key()).serial_number(7)
    dated = builder.not_valid_before(datetime(2020, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=1))
    return base64.b64encode(dated.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)).decode()


def der(private: PrivateKey) -> bytes:
    """SubjectPublicKeyInfo."""
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(private: PrivateKey, issuer: str = ISSUER, constraint: str | None = None) -> dict[str, Any]:
    """One key in a row of the table, as CCF writes it."""
    more = {} if constraint is None else {"constraint": constraint}
    return {**more, "issuer": issuer, "public_key": base64.b64encode(der(private)).decode()}


def rows(**keys: list[dict[str, Any]]) -> dict[bytes, bytes | None]:
    """Rows of the table, by key id."""
    return {kid.encode(): tables.encode(records) for kid, records in keys.items()}


def claims(**change: Any) -> dict[str, Any]:
    """A payload that counts now; a change to None takes one out."""
    every = {"iss": ISSUER, "sub": "alice", "nbf": NOW - 60, "exp": NOW + 60, **change}
    return {name: value for name, value in every.items() if value is not None}


def sign(private: PrivateKey, algorithm: str, data: bytes) -> bytes:
    """As RFC 7518 says."""
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(data, padding.PKCS1v15(), _HASHES[algorithm])
    r, s = decode_dss_signature(private.sign(data, ec.ECDSA(_HASHES[algorithm])))
    size = (private.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def raw_token(header: bytes | Mapping[str, Any], payload: bytes | Mapping[str, Any], signer: PrivateKey, algorithm: str) -> str:
    """A token of exactly this header and payload, truly signed."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(map(b64url, parts))
    return f"{signed}.{b64url(sign(signer, algorithm, signed.encode()))}"


def algorithm_of(private: PrivateKey) -> str:
    """The algorithm that a key is for."""
    return "RS256" if isinstance(private, rsa.RSAPrivateKey) else {256: "ES256", 384: "ES384", 521: "ES512"}[private.key_size]


def token(signer: PrivateKey, kid: str = "k", header: Mapping[str, Any] | None = None, **change: Any) -> str:
    """A token that counts, but for what is changed."""
    algorithm = algorithm_of(signer)
    return raw_token({"alg": algorithm, "kid": kid, **(header or {})}, claims(**change), signer, algorithm)


def hmac_token(secret: bytes, kid: str = "k") -> str:
    """Signed with a shared secret, as HS256 wants it."""
    signed = f"{b64url(json.dumps({'alg': 'HS256', 'kid': kid}).encode())}.{b64url(json.dumps(claims()).encode())}"
    return f"{signed}.{b64url(hmac.digest(secret, signed.encode(), sha256))}"


CONSTITUTION: Final = """
export function validate() { return { valid: true, description: "" }; }
export function resolve() { return "Accepted"; }
export function apply(proposal) {
  for (const { name, args } of JSON.parse(proposal).actions) {
    if (name === "keys") ccf.setJwtPublicSigningKeys(args.issuer, args, args.jwks);
    else if (name === "remove") ccf.removeJwtPublicSigningKeys(args.issuer);
    else ccf.kv[args.table].set(ccf.strToBuf(args.key), ccf.jsonCompatibleToBuf(args.value));
  }
}
"""
"""Carries out what one member proposes, asking nobody: the calls alone, without what our constitution checks before."""


class Tokens:
    """A service whose one member decides about issuers, by the constitution above unless told otherwise."""

    def __init__(self, cluster: Cluster, constitution: str = CONSTITUTION) -> None:
        self.cluster = cluster
        self.host = cluster.begin(constitution=constitution)
        self._time = SIGNED_AT

    @property
    def store(self) -> Any:
        """The state of the first node."""
        serving: Any = self.host.enclave._serving
        return serving._replica.store

    def propose(self, name: str, **arguments: Any) -> Answer:
        """The answer to a proposal of one action."""
        self._time += 1
        member = self.cluster.member
        proposal = json.dumps({"actions": [{"name": name, "args": arguments}]}).encode()
        return send(self.cluster, self.host, requests.sign(member.key, member.certificate, "proposal", proposal, created_at=self._time))

    def keys(self) -> dict[bytes, bytes]:
        """The table."""
        return dict(self.store.map(tables.JWT_KEYS).items())
