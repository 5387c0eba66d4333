"""All nodes of a service are lost, real processes: a member has every private value again, from one disk and its own key."""

import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from support.auditing import audited
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
