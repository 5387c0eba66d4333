"""AWS's Signature Version 4, for the one kind of request that this enclave makes.

The credentials are the instance's: the host holds them and hands them over, so against it they are no secret, and what protects a key is
its policy. They are still not shown in any `repr` or error.
Source: AWS, "Create a signed AWS API request" (steps 1 to 4), and its published example values.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from ledgerd.ledger.errors import ConfigurationError

ALGORITHM: Final = "AWS4-HMAC-SHA256"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9]{16,128}")
_SECRET: Final = re.compile(r"[!-~]{16,256}")
_TOKEN: Final = re.compile(r"[!-~]{1,8192}")  # a header's value


class Credentials:
    """What AWS gives a role: an access key, its secret, and a session token for temporary ones (instances have only such).

    Attributes:
        access_key_id: Public name of the secret.
    """

    __slots__ = ("_secret", "access_key_id", "session_token")

    def __init__(self, access_key_id: str, secret_access_key: str, session_token: str | None = None) -> None:
        """Raises: ConfigurationError: One of them cannot be what AWS hands out. Its value is not shown."""
        for name, value, form in (
            ("access key id", access_key_id, _ACCESS_KEY),
            ("secret access key", secret_access_key, _SECRET),
            ("session token", session_token, _TOKEN),
        ):
            if value is not None and form.fullmatch(value) is None:
                raise ConfigurationError(f"the {name} of the AWS credentials has a form that none has; pass on what the role gives")
        self.access_key_id = access_key_id
        self._secret = secret_access_key
        self.session_token = session_token

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id})"

    def signing_key(self, date: str, region: str, service: str) -> bytes:
        """Derive the key of one day, region and service. `date` is YYYYMMDD."""
        key = f"AWS4{self._secret}".encode()
        for part in (date, region, service, "aws4_request"):
            key = _hmac(key, part)
        return key


def sign(
    credentials: Credentials,
    *,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    region: str,
    service: str,
    at_ms: int,
) -> dict[str, str]:
    """Return the headers to send: those given, `x-amz-date`, the session token where there is one, and `authorization` over all of them.

    Args:
        path: Absolute, in its canonical form, without a query: KMS has only `/`.
        headers: Lower-case names, `host` among them; values without surrounding or repeated blanks.
        at_ms: Now, milliseconds since 1970, by a clock that AWS agrees with within five minutes.
    """
    stamp = (_EPOCH + timedelta(milliseconds=at_ms)).strftime("%Y%m%dT%H%M%SZ")
    signed = {**headers, "x-amz-date": stamp}
    if credentials.session_token is not None:
        signed["x-amz-security-token"] = credentials.session_token
    names = sorted(signed)
    listed = ";".join(names)
    canonical = "\n".join([method, path, "", *(f"{name}:{signed[name]}" for name in names), "", listed, hashlib.sha256(body).hexdigest()])
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = _hmac(credentials.signing_key(stamp[:8], region, service), text).hex()
    signed["authorization"] = f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={listed}, Signature={signature}"
    return signed


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
