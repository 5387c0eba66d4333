"""JSON Web Key Sets (RFC 7517) as issuers publish and members propose them: read into keys that may stand in the table.

A key is given by its numbers (`n`, `e` or `crv`, `x`, `y`), by a certificate (`x5c`, of which the first one's key counts, as in CCF), or by
both, which then must agree. Nothing else of the certificate is believed: whoever brings the set vouches for it.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from ledgerd.enclave.jwt.keys import ALGORITHMS, CURVES, PublicKey, algorithm_of, check, from_point, from_rsa_numbers, to_der
from ledgerd.enclave.jwt.records import KEY_ID_LENGTH_MAX, KeyRecord
from ledgerd.enclave.jwt.strict import base64url
from ledgerd.enclave.jwt.urls import URL_LENGTH_MAX, may_constrain
from ledgerd.ledger.errors import FormatError

KEYS_MAX: Final = 100  # of one issuer; the largest have a dozen
CERTIFICATE_LENGTH_MAX: Final = 16 << 10  # base64

_CURVE_NAMES: Final = tuple(known.name for known in CURVES.values())
_KINDS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}


def read(jwks: Any, issuer: str, left_out: Callable[[str], None] | None = None) -> dict[str, KeyRecord]:
    """Read the keys of an issuer.

    Args:
        jwks: JSON value.
        left_out: Told of each key that is not for signing, or not of a kind that is known here, and is left out, as RFC 7517 section 5
            wants it of whoever reads what others publish. None: such a key is an error, as is right for what members decide.
    Returns: By key id; never empty.
    Raises: FormatError: It is no key set, a key is malformed or weak, or an id stands twice.
    """
    listed = jwks.get("keys") if type(jwks) is dict else None
    if type(listed) is not list or not listed:
        raise FormatError("JWKS has no keys")
    if len(listed) > KEYS_MAX:
        raise FormatError(f"JWKS has {len(listed)} keys; at most {KEYS_MAX} are read")
    found: dict[str, KeyRecord] = {}
    for position, item in enumerate(listed):
        if type(item) is not dict:
            raise FormatError(f"JWKS key {position} is no object")
        jwk = {name: value for name, value in item.items() if value is not None}
        strange = _strange(jwk)
        if strange is not None:
            if left_out is None:
                raise FormatError(f"JWKS key {position} {strange}")
            left_out(f"key {position} {strange}")
            continue
        key_id = jwk["kid"]
        try:
            found_before, found[key_id] = key_id in found, KeyRecord(to_der(_read_key(jwk)), issuer, _constraint(jwk, issuer))
        except FormatError as error:
            raise FormatError(f"JWKS kid {key_id}: {error}") from None
        if found_before:
            raise FormatError(f"JWKS kid {key_id} is there twice")
    if not found:
        raise FormatError("JWKS has no key that is for signing and of a kind that is known here")
    return found


def _strange(jwk: Mapping[str, Any]) -> str | None:
    """Why a key is of no use here though it may be well-formed, or None."""
    key_id, curve = jwk.get("kid"), jwk.get("crv")
    if type(key_id) is not str or not 0 < len(key_id) <= KEY_ID_LENGTH_MAX or not key_id.isprintable():
        return f"has no kid of 1 to {KEY_ID_LENGTH_MAX} printable characters"
    if jwk.get("kty") not in tuple(_KINDS):  # not by hash: it may be anything
        return "is of another kty than RSA and EC"
    if jwk.get("use", "sig") != "sig":
        return "is of another use than sig"
    if jwk.get("alg", ALGORITHMS[0]) not in ALGORITHMS:
        return f"is for another alg than {', '.join(ALGORITHMS)}"
    if jwk["kty"] == "EC" and curve is not None and curve not in _CURVE_NAMES:
        return f"is on another crv than {', '.join(_CURVE_NAMES)}"
    return None


def _read_key(jwk: Mapping[str, Any]) -> PublicKey:
    kind = jwk["kty"]
    given = [name for name in _KINDS[kind] if name in jwk]
    if given and len(given) < len(_KINDS[kind]):
        raise FormatError(f"it has {given[0]} but not all of {', '.join(_KINDS[kind])}")
    if not given and "x5c" not in jwk:
        raise FormatError(f"it has neither {', '.join(_KINDS[kind])} nor x5c")
    candidates = []
    if given:
        candidates.append(check(_rsa(jwk) if kind == "RSA" else _ec(jwk)))
    if "x5c" in jwk:
        candidates.append(check(_certified(jwk["x5c"])))
    key = candidates[0]
    if to_der(candidates[-1]) != to_der(key):
        raise FormatError("the certificate in x5c is for another key than the numbers beside it")
    if isinstance(key, rsa.RSAPublicKey) is not (kind == "RSA"):
        raise FormatError(f"the certificate in x5c has no {kind} key")
    if jwk.get("alg", algorithm_of(key)) != algorithm_of(key):
        raise FormatError(f"alg is {jwk['alg']}, but such a key has {algorithm_of(key)}")
    return key


def _rsa(jwk: Mapping[str, Any]) -> PublicKey:
    n, e = (int.from_bytes(_bytes(jwk, name), "big") for name in ("n", "e"))
    return from_rsa_numbers(n, e)


def _ec(jwk: Mapping[str, Any]) -> PublicKey:
    curve = next(known for known in CURVES.values() if known.name == jwk["crv"])
    x, y = _bytes(jwk, "x"), _bytes(jwk, "y")
    if len(x) != curve.size or len(y) != curve.size:
        raise FormatError(f"x and y have {len(x)} and {len(y)} bytes; {curve.size} are those of {curve.name}")
    return from_point(curve, int.from_bytes(x, "big"), int.from_bytes(y, "big"))


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk[name]
    if type(value) is not str or not 0 < len(value) <= URL_LENGTH_MAX:
        raise FormatError(f"{name} is no text of base64url of at most {URL_LENGTH_MAX} characters")
    return base64url(value, name)


def _certified(x5c: Any) -> Any:
    first = x5c[0] if type(x5c) is list and x5c else None
    if type(first) is not str or len(first) > CERTIFICATE_LENGTH_MAX:
        raise FormatError("x5c is no list that begins with a certificate")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(first, validate=True)).public_key()
    except Exception:  # the library's list of what it raises for strange bytes is long
        raise FormatError("x5c does not begin with a certificate, DER in base64") from None


def _constraint(jwk: Mapping[str, Any], issuer: str) -> str | None:
    constraint = jwk.get("issuer")
    if constraint is not None and (type(constraint) is not str or not may_constrain(issuer, constraint)):
        raise FormatError(f"its issuer constraint {str(constraint)[:200]!r} fails validation against issuer {issuer[:200]}")
    return constraint
