"""CCF's own command-line signers, as members use them: PEM files in, a signed request out; or in two steps, with the key elsewhere."""

import base64
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.ccf_oracle import ROOT
from support.cluster import Identity

_HASHES: Final[dict[int, SHA256 | SHA384 | SHA512]] = {256: SHA256(), 384: SHA384(), 521: SHA512()}  # by the size of the key, in bits


class Signer:
    """One member's files, and CCF's tools of one major version; a test that needs tools that were not made is skipped, in CI it fails."""

    def __init__(self, major: int, identity: Identity, folder: Path) -> None:
        self._tools = ROOT / f".venv-ccf{major}" / "bin"
        if not (self._tools / "ccf_cose_sign1").exists():
            text = f"{self._tools} has no ccf_cose_sign1: run scripts/oracles"
            if os.environ.get("CI"):
                pytest.fail(text)
            pytest.skip(text)
        self._identity = identity
        self._certificate = folder / "member_cert.pem"
        self._certificate.write_text(identity.pem)
        self._key = folder / "member_privk.pem"
        self._key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._signature = folder / "signature.json"

    def sign(self, kind: str, payload: bytes, at: int, proposal_id: str | None = None) -> bytes:
        """Sign with the key's file."""
        return self._run("ccf_cose_sign1", kind, payload, at, proposal_id, "--signing-key", str(self._key))

    def sign_apart(self, kind: str, payload: bytes, at: int, proposal_id: str | None = None) -> bytes:
        """Sign in two steps: the tool asks for the signature of a digest, which a vault may make that keeps the key."""
        asked = json.loads(self._run("ccf_cose_sign1_prepare", kind, payload, at, proposal_id))
        key = self._identity.key
        prehashed = ec.ECDSA(Prehashed(_HASHES[key.curve.key_size]))
        r, s = decode_dss_signature(key.sign(base64.b64decode(asked["value"]), prehashed))
        size = (key.curve.key_size + 7) // 8
        raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
        self._signature.write_text(json.dumps({"value": base64.urlsafe_b64encode(raw).decode()}))
        return self._run("ccf_cose_sign1_finish", kind, payload, at, proposal_id, "--signature", str(self._signature))

    def digest(self, kind: str, payload: bytes, at: int, proposal_id: str | None = None) -> bytes:
        """What the tool asks to be signed, for signing in two steps."""
        return base64.b64decode(json.loads(self._run("ccf_cose_sign1_prepare", kind, payload, at, proposal_id))["value"])

    def _run(self, tool: str, kind: str, payload: bytes, at: int, proposal_id: str | None, *more: str) -> bytes:
        when = datetime.fromtimestamp(at, UTC).isoformat()
        about = () if proposal_id is None else ("--ccf-gov-msg-proposal-id", proposal_id)
        common = ("--content", "-", "--signing-cert", str(self._certificate), "--ccf-gov-msg-type", kind, "--ccf-gov-msg-created-at", when)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self._tools / tool), *common, *about, *more]
        return subprocess.run(command, input=payload, check=True, capture_output=True, env=environment, timeout=600).stdout
