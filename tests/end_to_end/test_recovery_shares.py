"""All nodes of a service are lost, real processes: a member has every private value again, from one disk and its own key. And CCF's own
script by which members hand in their shares, against a service that needs none.
"""

import base64
import hashlib
import json
import shlex
import shutil
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ledgerd.governance import requests
from support.auditing import audited
from support.ccf_tools import TOOLS, environment
from support.cluster import make_identity
from support.command_line import Ran, run
from support.members import files
from support.processes import Service
from support.recovered import opened_by, secrets_of


def test_a_member_has_everything_again_from_one_disk_when_all_nodes_are_gone(tmp_path: Path) -> None:
    member = make_identity("late")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    cert, public, private = (tmp_path / name for name in ("late.pem", "public.pem", "private.pem"))
    cert.write_text(member.pem)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with Service(tmp_path, 2) as service:
        folder = service.folder
        asking = ("--url", service.primary().url, "--service-cert", service.certificate)
        first = ("--member-cert", folder / "member0_cert.pem", "--member-key", folder / "member0_privk.pem")

        def ledgerd(*words: object) -> Ran:
            ran = run(*words, *asking)
            assert ran.status == 0, ran
            return ran

        def write(name: str) -> None:
            user = ("--cert", folder / "user0_cert.pem", "--key", folder / "user0_privk.pem")
            ledgerd("tx", "submit", "PUT", f"/app/records/{name}", "--data", name, *user)

        write("before")
        ledgerd("gov", "propose", "set-member", "--cert", cert, "--encryption-pub-key", public, *first)
        ledgerd("gov", "ack", *files(member, tmp_path))
        old = ledgerd("gov", "share", "--encryption-key", private).out
        ledgerd("gov", "propose", "trigger-ledger-rekey", *first)
        assert ledgerd("gov", "share", "--encryption-key", private).out != old
        write("after")
        late = service.add()
        write("late")
        committed = service.settle()
        certificate = service.certificate.read_text()
    assert service.alive() == []
    entries = late.entries(committed)
    name = hashlib.sha256(x509.load_pem_x509_certificate(cert.read_bytes()).public_bytes(Encoding.DER)).hexdigest()
    secrets = secrets_of(entries, {name: key})
    assert len(secrets) == 2
    found = {key: value for entry in opened_by(entries, secrets) for key, value in entry.writes.get("records", {}).items()}
    assert found == {text.encode(): text.encode() for text in ("before", "after", "late")}
    audited(entries, certificate)


def test_ccfs_script_fetches_opens_and_submits_a_share_and_is_told_that_the_service_waits_for_none(tmp_path: Path) -> None:
    tools = environment("curl", "jq", "openssl", "awk")
    member = make_identity("carol")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public, private, other = (tmp_path / name for name in ("public.pem", "private.pem", "other.pem"))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other.write_bytes(stranger.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sent = tmp_path / "sent.cose"
    _, certificate, _, signing_key = files(member, tmp_path)
    with Service(tmp_path, 1) as service:
        url, folder = service.primary().url, service.folder
        asking = ("--url", url, "--service-cert", service.certificate)
        first = ("--member-cert", folder / "member0_cert.pem", "--member-key", folder / "member0_privk.pem")

        def submit(share_key: Path, *curl_options: str) -> "subprocess.CompletedProcess[str]":
            command = [str(TOOLS / "submit_recovery_share.sh"), url, "--member-enc-privk", str(share_key)]
            command += ["--member-id-privk", str(signing_key), "--member-id-cert", str(certificate), "--api-version", "2024-07-01"]
            command += ["--cacert", str(service.certificate), *curl_options]
            return subprocess.run(command, capture_output=True, text=True, env=tools, timeout=600, check=False)

        assert run("gov", "propose", "set-member", "--cert", certificate, *asking, *first).status == 0
        assert run("gov", "ack", *asking, *files(member, tmp_path)).status == 0
        without = submit(private)
        assert without.returncode != 0
        assert "404" in without.stderr
        proposed = ("--cert", certificate, "--encryption-pub-key", public)
        assert run("gov", "propose", "set-member", *proposed, *asking, *first).status == 0
        assert run("gov", "ack", *asking, *files(member, tmp_path)).status == 0
        refused = submit(private)
        assert refused.returncode == 22  # as curl ends with --fail
        assert refused.stdout.startswith("HTTP/1.1 403 ")
        told = submit(private, "--no-fail")
        head, _, body = told.stdout.partition("\n\n")
        assert told.returncode == 0
        assert head.startswith("HTTP/1.1 403")
        assert json.loads(body)["error"]["code"] == "ServiceNotWaitingForRecoveryShares"
        # What it sends, seen by a curl before the real one, is the member's share, signed by the member.
        shim = tmp_path / "bin"
        shim.mkdir()
        real = shutil.which("curl", path=tools["PATH"])
        assert real is not None
        keep = f'case "$*" in *--data-binary*) tee {shlex.quote(str(sent))} | exec {real} "$@";; *) exec {real} "$@";; esac'
        (shim / "curl").write_text(f"#!/bin/sh\n{keep}\n")
        (shim / "curl").chmod(0o755)
        tools["PATH"] = f"{shim}:{tools['PATH']}"
        assert submit(private).returncode == 22
        request = requests.read(sent.read_bytes())
        requests.verify(request, member.certificate)
        share = run("gov", "share", "--encryption-key", private, *asking).out.strip()
        assert (request.kind, json.loads(request.payload)) == (requests.RECOVERY_SHARE, {"share": share})
        assert len(base64.b64decode(share)) > 32
        # Another key opens nothing, and then nothing that could be a share leaves the machine.
        assert submit(other).returncode != 0
        assert requests.read(sent.read_bytes()).payload == b""
