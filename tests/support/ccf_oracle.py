"""Ask CCF's own Python package whether it accepts what ledgerd wrote. Two halves in one file.

Imported by tests: `Oracle`, a child process in an environment that `scripts/oracles` made. Run as a script there: reads one JSON
request a line and answers each with one line, {"ok": ..., "error": ...} and what was counted. One process serves many requests,
since importing the package takes half a second. The script half uses nothing of ledgerd.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class Oracle:
    """CCF's package of one major version."""

    def __init__(self, major: int) -> None:
        """Raises: FileNotFoundError: `scripts/oracles` was not run, or could not make this environment."""
        python = ROOT / f".venv-ccf{major}" / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(f"{python} is not there: run scripts/oracles")
        self.major = major
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [str(python), "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(120)

    def ledger(self, folder: Path) -> dict[str, Any]:
        """Verify a directory of chunks, open ones too, at the highest level: transactions, signatures, last (verified id)."""
        return self._ask({"what": "ledger", "folder": str(folder)})

    def receipt(self, receipt: dict[str, Any], service_certificate: str) -> dict[str, Any]:
        """Verify a JSON receipt and its certificates."""
        return self._ask({"what": "receipt", "receipt": receipt, "service": service_certificate})

    def cose_receipt(self, receipt: bytes, service_certificate: str, claims_digest: bytes) -> dict[str, Any]:
        """Verify a COSE receipt."""
        return self._ask(
            {"what": "cose", "receipt": base64.b64encode(receipt).decode(), "service": service_certificate, "claims": claims_digest.hex()}
        )

    def signed_request(self, envelope: bytes, certificate: str) -> dict[str, Any]:
        """Verify what a member has signed, by the COSE library that CCF's package of this version uses: payload and header."""
        return self._ask({"what": "sign1", "envelope": base64.b64encode(envelope).decode(), "certificate": certificate})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def verify_ledger(folder: str) -> dict[str, Any]:
    import ccf.ledger  # type: ignore[import-not-found]

    counts: dict[str, Any] = {"transactions": 0}
    levels = getattr(ccf.ledger, "VerificationLevel", None)
    if levels is None:  # 6.x: one level, and the counts of its validator belong to the class
        validator = ccf.ledger.LedgerValidator(accept_deprecated_entry_types=False)
        validator.node_certificates, validator.node_activity_status, validator.signature_count = {}, {}, 0
        ledger = ccf.ledger.Ledger([folder], committed_only=False)
    else:
        validator = ccf.ledger.LedgerValidator(verification_level=levels.FULL)
        ledger = ccf.ledger.Ledger([folder], committed_only=False, verification_level=levels.FULL)
    for chunk in ledger:
        for transaction in chunk:
            validator.add_transaction(transaction)
            counts["transactions"] += 1
    return counts | {"signatures": validator.signature_count, "last": str(validator.last_verified_txid())}


def verify_receipt(receipt: dict[str, Any], service: str) -> dict[str, Any]:
    """Do what CCF's documentation tells a verifier of JSON receipts to do, with its functions."""
    from hashlib import sha256

    import ccf.receipt  # type: ignore[import-not-found]
    from cryptography.x509 import load_pem_x509_certificate

    leaf = receipt["leaf_components"]
    evidence = sha256(leaf["commit_evidence"].encode()).digest()
    digest = sha256(bytes.fromhex(leaf["write_set_digest"]) + evidence + bytes.fromhex(leaf["claims_digest"])).hexdigest()
    certificate = load_pem_x509_certificate(receipt["cert"].encode())
    service_certificate = load_pem_x509_certificate(service.encode())
    endorsements = [load_pem_x509_certificate(pem.encode()) for pem in receipt.get("service_endorsements", [])]
    ccf.receipt.verify(ccf.receipt.root(digest, receipt["proof"]), receipt["signature"], certificate)
    ccf.receipt.check_endorsements(certificate, service_certificate, endorsements)
    ccf.receipt.check_cert_chain(certificate, service_certificate, endorsements)
    return {}


def verify_cose(receipt: str, service: str, claims: str) -> dict[str, Any]:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        from ccf.receipt import verify_cose as verify
    except ImportError:  # 6.x
        from ccf.cose import verify_receipt as verify  # type: ignore[import-not-found]
    key = load_pem_x509_certificate(service.encode()).public_key()
    verify(base64.b64decode(receipt), key, bytes.fromhex(claims))
    return {}


def verify_sign1(envelope: str, certificate: str) -> dict[str, Any]:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_certificate

    parsed = load_pem_x509_certificate(certificate.encode())
    kid, public = parsed.fingerprint(SHA256()).hex(), parsed.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    data = base64.b64decode(envelope)
    try:
        from pycose.messages import Sign1Message  # type: ignore[import-not-found]
    except ImportError:
        from cwt import COSE, COSEKey  # type: ignore[import-not-found]

        header, _, payload = COSE.new(kid_auto_inclusion=False).decode_with_headers(data, COSEKey.from_pem(pem, kid=kid))
        return {"payload": payload.decode(), "header": {str(name): str(value) for name, value in header.items()}}
    from pycose.keys import EC2Key  # type: ignore[import-not-found]

    message = Sign1Message.decode(data)
    message.key = EC2Key.from_pem_public_key(pem)
    if not message.verify_signature():
        raise ValueError("the signature does not verify")
    return {"payload": message.payload.decode(), "header": {str(name): str(value) for name, value in message.phdr.items()}}


HANDLERS: dict[str, Callable[..., dict[str, Any]]] = {
    "ledger": verify_ledger,
    "receipt": verify_receipt,
    "cose": verify_cose,
    "sign1": verify_sign1,
}


def serve() -> None:
    answers = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("what")
        try:
            verify = HANDLERS[what]
            with contextlib.redirect_stdout(sys.stderr):
                result = verify(**request)
            answer = {"ok": True, "error": None, **result}
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
