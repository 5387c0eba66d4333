"""Whatever a script gives to `ccf.crypto`, it ends with a value that can be handed back or with a refusal."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.runtime.crypto.arguments import RefusalError, Surroundings
from ledgerd.enclave.runtime.crypto.functions import FUNCTIONS, call
from support.script_crypto import NOW_S, certificate, private, public

WHERE = Surroundings(NOW_S * 1000, is_decision=True)  # no keys are made, which would only take time

PEMS = [private(kind) for kind in ("rsa", "p256", "ed25519", "x25519", "p224")]
PEMS += [public(kind) for kind in ("rsa", "p256", "p521", "ed25519", "x25519")] + [certificate("a", "a"), certificate("a", "b", "rsa")]
SECRET = ("pemToJwk", "rsaPemToJwk", "eddsaPemToJwk")
JWKS = [call(name, [pem], WHERE) for name, pem in zip(SECRET, (private("p256"), private("rsa"), private("ed25519")), strict=True)]
NAMES = ["RSA-PSS", "ECDSA", "EdDSA", "HMAC", "RSA-OAEP", "AES-KWP", "RSA-OAEP-AES-KWP", "SHA-256", "SHA-512", "secp256r1", "x25519"]


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """A PEM with some of its characters changed, left out, or added."""
    pem = draw(st.sampled_from(PEMS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(pem)))
        pem = pem[:at] + draw(st.text(max_size=3)) + pem[at + draw(st.integers(0, 40)) :]
    return pem


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.binary(max_size=600),
    spoilt(),
)
OBJECTS = st.dictionaries(
    st.sampled_from(
        ["name", "hash", "saltLength", "label", "aesKeySize", "kty", "crv", "x", "y", "d", "n", "e", "p", "q", "dp", "dq", "qi"]
    ),
    st.one_of(st.sampled_from([*NAMES, "EC", "RSA", "OKP", "P-256", "Ed25519", "X25519"]), SCALARS),
)
CHANGED = st.builds(lambda jwk, change: jwk | change, st.sampled_from(JWKS), OBJECTS)
VALUES = st.one_of(SCALARS, st.sampled_from(NAMES), OBJECTS, CHANGED, st.builds(str.encode, spoilt()), st.lists(SCALARS, max_size=2))


@settings(max_examples=500, deadline=None)
@given(name=st.sampled_from(sorted(FUNCTIONS)), data=st.data())
def test_a_call_ends_with_a_value_or_a_refusal(name: str, data: st.DataObject) -> None:
    row = FUNCTIONS[name]
    count = data.draw(st.integers(max(0, row.least - 1), row.most + 1))
    arguments = data.draw(st.lists(VALUES, min_size=count, max_size=count))
    try:
        result: Any = call(name, arguments, WHERE)
    except RefusalError as error:
        assert 0 < len(str(error)) < 500
        assert " failed: " not in str(error), "each of them is foreseen"
    else:
        assert type(result) in (bool, bytes) or json.dumps(result)
