"""`ledgerd gov share`: what openssl decrypts, too, as in CCF's script; and which words there are for what goes wrong."""

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ledgerd.enclave.governing.sharing import encrypted
from ledgerd.governance import tables
from support.command_line import Ledgerd
from support.council import Council
from support.governed import ALICE, BOB, CAROL, id_of

KEY, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
SHARE = bytes(range(44))


def written(folder: Path, key: Any, protection: KeySerializationEncryption | None = None) -> Path:
    """A private key's file."""
    file = folder / "member_enc_privk.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection or NoEncryption()))
    return file


def public(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


@pytest.fixture
def shared(council: Council) -> Council:
    """Alice and carol have encryption keys, and alice a share."""
    share = base64.b64encode(encrypted(KEY.public_key(), SHARE)).decode()
    record = {"wrapped_latest_ledger_secret": "", "encrypted_shares": {id_of(ALICE): share}}
    council.node.put(
        {
            tables.MEMBER_ENCRYPTION_KEYS: {id_of(ALICE).encode(): public(KEY), id_of(CAROL).encode(): public(OTHER), b"x": b"no key"},
            tables.RECOVERY_SHARES: {tables.SINGLETON: tables.encode(record)},
        }
    )
    return council


def test_a_member_has_its_share_by_its_key_alone(ledgerd: Ledgerd, shared: Council, options: list[object], tmp_path: Path) -> None:
    file = written(tmp_path, KEY)
    ran = ledgerd("gov", "share", "--encryption-key", file, *options)
    assert (ran.status, ran.out) == (0, base64.b64encode(SHARE).decode() + "\n")
    ran = ledgerd("gov", "share", "--encryption-key", file, "-o", "json", *options)
    assert ran.json == {"schema": "ledgerd.gov_share.v1", "share": base64.b64encode(SHARE).decode()}


def test_openssl_decrypts_the_same_as_ccfs_script_has_it(shared: Council, tmp_path: Path) -> None:
    answer = shared.node.read(f"/recovery/encrypted-shares/{id_of(ALICE)}")
    options = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"]
    command = ["openssl", "pkeyutl", "-inkey", str(written(tmp_path, KEY)), "-decrypt", *options]
    decrypted = subprocess.run(command, input=base64.b64decode(answer["encryptedShare"]), stdout=subprocess.PIPE, check=True)
    assert decrypted.stdout == SHARE


def test_who_has_none_is_told_so(ledgerd: Ledgerd, shared: Council, options: list[object], tmp_path: Path) -> None:
    ran = ledgerd("gov", "share", "--encryption-key", written(tmp_path, OTHER), *options)
    assert (ran.status, ran.out) == (1, "")
    assert f"no share of member {id_of(CAROL)}" in ran.err
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ran = ledgerd("gov", "share", "--encryption-key", written(tmp_path, stranger), *options)
    assert (ran.status, "no member has this encryption key" in ran.err) == (1, True)
    ran = ledgerd("gov", "share", "--encryption-key", written(tmp_path, stranger), "--member", id_of(ALICE), "-o", "json", *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NoShare")
    assert "is not for this key" in ran.json["error"]["message"]


def test_where_two_members_have_one_key_it_must_be_said_whose(
    ledgerd: Ledgerd, shared: Council, options: list[object], tmp_path: Path
) -> None:
    shared.node.put({tables.MEMBER_ENCRYPTION_KEYS: {id_of(BOB).encode(): public(KEY)}})
    file = written(tmp_path, KEY)
    ran = ledgerd("gov", "share", "--encryption-key", file, *options)
    assert ran.status == 2
    assert "--member" in ran.err
    ran = ledgerd("gov", "share", "--encryption-key", file, "--member", id_of(ALICE), *options)
    assert (ran.status, ran.out.strip()) == (0, base64.b64encode(SHARE).decode())


@pytest.mark.parametrize("what", ["elliptic", "passphrase", "text", "none", "member"])
def test_a_wrong_call_is_told_before_anything_is_asked(ledgerd: Ledgerd, options: list[object], tmp_path: Path, what: str) -> None:
    file = tmp_path / "none.pem"
    more: list[object] = []
    if what == "elliptic":
        file = written(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    elif what == "passphrase":
        file = written(tmp_path, KEY, BestAvailableEncryption(b"secret"))
    elif what == "text":
        file.write_text("no key")
    elif what == "member":
        file, more = written(tmp_path, KEY), ["--member", "alice"]
    ran = ledgerd("gov", "share", "--encryption-key", file, *more, *options)
    told = {"elliptic": "no private RSA key", "passphrase": "has a passphrase", "text": "no private RSA key", "none": "cannot read"}
    assert (ran.status, ran.out) == (2, "")
    assert told.get(what, "is no member's id") in ran.err
