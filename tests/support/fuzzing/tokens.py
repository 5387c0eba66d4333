"""Tokens as their bearers send them, and key sets as their issuers publish them."""

import json
from typing import Final

from ledgerd.enclave.jwt import bearer, jwks
from ledgerd.enclave.jwt.keys import from_der, to_der
from ledgerd.enclave.jwt.records import changes, read_records
from ledgerd.enclave.jwt.strict import read_object
from ledgerd.ledger.errors import FormatError
from support.fuzzing.laws import BrokenLaw, Maker, Target
from support.jwt import ISSUER, NOW, certificate, claims, jwk, key, raw_token, record, rows, token


def _token() -> Target:
    """A token in a request's header, by keys of both kinds."""
    rsa, p256 = key("RSA"), key("P-256")
    table = rows(k=[record(rsa, constraint=ISSUER)], l=[record(p256)])
    signed = [token(rsa, "k"), token(p256, "l"), raw_token({"alg": "ES256", "kid": "l"}, claims(tid="t", sub=None), p256, "ES256")]
    said = {text.rpartition(".")[0] for text in signed}

    def judge(data: bytes) -> bool:
        text = data.decode("latin-1")
        found = bearer.authenticate(text, bearer.Verified(), table.get, NOW)
        if isinstance(found, str):
            return False
        if text.partition(" ")[2].rpartition(".")[0] not in said:
            raise BrokenLaw("what no issuer has signed counts")
        return True

    bombs = [
        b"Bearer " + b"." * 16_000,
        b"Bearer " + b"A" * 16_000 + b".A.A",
        b"Bearer " + raw_token(b'{"alg":"RS256","kid":"k"}', b"[" * 8_000, rsa, "RS256").encode(),
        b"Bearer " + raw_token(b'{"alg":"RS256","kid":"k"}', b'{"a":' + b"9" * 8_000 + b"}", rsa, "RS256").encode(),
    ]
    tokens = [b".", b"=", b"Bearer ", b"eyJhbGciOiJub25lIn0", b"eyJhbGciOiJIUzI1NiJ9", b"-_", b"\xe9"]
    return Target("token", [b"Bearer " + text.encode() for text in signed], judge, tokens=tokens, bombs=bombs)


def _key_set() -> Target:
    """A key set of an issuer's server, on its way into the table."""
    rsa, p256, p521 = key("RSA"), key("P-256"), key("P-521")
    seeds = [
        json.dumps({"keys": [jwk(rsa, "a", use="sig", alg="RS256"), jwk(p256, "b", issuer=ISSUER)]}).encode(),
        json.dumps({"keys": [jwk(rsa, "a", x5c=[certificate(rsa)]), {"kty": "EC", "kid": "c", "x5c": [certificate(p521)]}]}).encode(),
        json.dumps({"keys": [jwk(p521, "d"), {"kty": "OKP", "kid": "e", "crv": "Ed25519", "x": "AA"}]}).encode(),
    ]

    def judge(data: bytes) -> bool:
        try:
            found = jwks.read(read_object(data, "the document"), ISSUER, lambda text: None)
        except FormatError:
            return False
        written = {kid: value for kid, value in changes([], ISSUER, found).items() if value is not None}
        if {kid.decode(): next(read_records(value)) for kid, value in written.items()} != found:
            raise BrokenLaw("a key is read from the table otherwise than it was written")
        if any(to_der(from_der(each.public_key)) != each.public_key for each in found.values()):
            raise BrokenLaw("a key is in the table that verifies nothing")
        if changes(written.items(), ISSUER, found):
            raise BrokenLaw("the same keys again are a change")
        return True

    bombs = [
        b'{"keys":[' + b"{}," * 20_000 + b"{}]}",
        b'{"keys":' + b"[" * 100_000,
        b'{"keys":[' + b",".join(b'{"kty":"RSA","kid":"%d","n":"%s","e":"AQAB"}' % (number, b"A" * 1_366) for number in range(100)) + b"]}",
        b'{"a":' + b"9" * 100_000 + b"}",
    ]
    tokens = [
        b'"x5c"',
        b'"kid"',
        b'"kty":"EC"',
        b'"kty":"RSA"',
        b'"oct"',
        b'"use":"enc"',
        b"null",
        b'"AQ"',
        b'"issuer":"https://"',
        b"[]",
        b"{}",
    ]
    return Target("key-set", seeds, judge, tokens=tokens, bombs=bombs)


MAKERS: Final[dict[str, Maker]] = {"token": _token, "key-set": _key_set}
