"""Signatures: AWS's published example values, and what is never shown."""

import hashlib
import hmac

import pytest

from ledgerd.enclave.kms.sigv4 import Credentials, sign
from ledgerd.ledger.errors import ConfigurationError

EXAMPLE = Credentials("AKIDEXAMPLEAKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AT_MS = 1_440_938_160_000  # 2015-08-30 12:36:00 UTC, the time of AWS's examples


@pytest.mark.parametrize(
    ("date", "key"),
    [
        ("20120215", "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"),
        ("20150830", "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"),
    ],
)
def test_the_signing_key_is_that_of_aws_s_examples(date: str, key: str) -> None:
    assert EXAMPLE.signing_key(date, "us-east-1", "iam").hex() == key


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_the_signature_is_that_of_aws_s_test_suite(method: str, signature: str) -> None:
    """Its cases get-vanilla and post-vanilla."""
    signed = sign(
        EXAMPLE,
        method=method,
        path="/",
        headers={"host": "example.amazonaws.com"},
        body=b"",
        region="us-east-1",
        service="service",
        at_ms=AT_MS,
    )
    assert signed["x-amz-date"] == "20150830T123600Z"
    assert signed["authorization"].endswith(f"SignedHeaders=host;x-amz-date, Signature={signature}")


def test_body_token_and_every_header_are_signed() -> None:
    def signature(token: str | None = "token", body: bytes = b"{}", target: str = "TrentService.Decrypt") -> str:
        credentials = Credentials(EXAMPLE.access_key_id, "x" * 40, token)
        headers = {"host": "h", "x-amz-target": target}
        signed = sign(credentials, method="POST", path="/", headers=headers, body=body, region="r", service="kms", at_ms=AT_MS)
        return signed["authorization"].rpartition("=")[2]

    assert (
        len({signature(), signature(token="other"), signature(None), signature(body=b"{ }"), signature(target="TrentService.Encrypt")}) == 5
    )


def test_the_standard_library_agrees_on_one_step() -> None:
    first = hmac.new(b"AWS4" + b"x" * 40, b"20150830", hashlib.sha256).digest()
    for part in (b"r", b"kms", b"aws4_request"):
        first = hmac.new(first, part, hashlib.sha256).digest()
    assert Credentials("A" * 20, "x" * 40).signing_key("20150830", "r", "kms") == first


@pytest.mark.parametrize(
    ("access_key", "secret", "token"),
    [("short", "x" * 40, None), ("A" * 20, "line\r\nbreak" * 5, None), ("A" * 20, "x" * 40, "to ken"), ("A" * 20, "x" * 40, "a\r\nb: c")],
)
def test_credentials_that_could_break_out_of_a_header_are_refused_unshown(access_key: str, secret: str, token: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Credentials(access_key, secret, token)
    assert secret not in str(caught.value)
    assert token is None or token not in str(caught.value)


def test_nothing_shows_the_secret() -> None:
    credentials = Credentials("A" * 20, "s" * 40, "t" * 40)
    assert "s" * 40 not in repr(credentials) + str(credentials)
    assert "t" * 40 not in repr(credentials) + str(credentials)
