"""The files and credentials of a public name: what the enclave is given, and what is kept of what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node import config, public_name, sections
from ledgerd.node.public_name import PublicNameConfig

ARN = "arn:aws:kms:eu-central-1:111122223333:key/a"
KEYS = {"AWS_ACCESS_KEY_ID": "ASIAEXAMPLEEXAMPLE00", "AWS_SECRET_ACCESS_KEY": "x" * 40}


def test_the_first_start_gives_nothing_sealed_and_the_next_what_was_kept(tmp_path: Path) -> None:
    settings = PublicNameConfig("ledger.example.org", ARN, tmp_path / "name")
    first = public_name.document(settings, KEYS)
    assert (first["sealed"], first["chain"]) == (None, "")
    public_name.keep(settings, "public_name_sealed", "c2VhbGVk")
    public_name.keep(settings, "public_name_request", "request")
    (tmp_path / "name" / "chain.pem").write_text("chain\n")
    second = public_name.document(settings, {**KEYS, "AWS_SESSION_TOKEN": "token"})
    assert (second["sealed"], second["chain"]) == ("c2VhbGVk", "chain")
    assert second["credentials"]["session_token"] == "token"
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("environment", [{}, {"AWS_ACCESS_KEY_ID": "x"}, {**KEYS, "AWS_SECRET_ACCESS_KEY": ""}])
def test_without_credentials_the_node_goes_without(tmp_path: Path, environment: dict[str, str]) -> None:
    assert public_name.document(PublicNameConfig("n", ARN, tmp_path), environment)["credentials"] is None


def test_what_was_sealed_is_never_replaced(tmp_path: Path) -> None:
    settings = PublicNameConfig("n", ARN, tmp_path)
    public_name.keep(settings, "public_name_sealed", "first")
    with pytest.raises(ConfigurationError, match="already"):
        public_name.keep(settings, "public_name_sealed", "second")
    assert (tmp_path / "sealed").read_text() == "first"
    for text in ("one", "two"):
        public_name.keep(settings, "public_name_request", text)


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "sealed").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not a text"):
        public_name.document(PublicNameConfig("n", ARN, tmp_path), KEYS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        public_name.keep(PublicNameConfig("n", ARN, tmp_path / "file"), "public_name_request", "x")


def parsed(tmp_path: Path, **section: Any) -> config.NodeConfig:
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    document = {
        "node": {"directory": "n", "app": "a"},
        "rpc": {"listen": "127.0.0.1:0"},
        "peer": {"listen": "127.0.0.1:0"},
        "attestation": {"simulator": "simulator"},
        "join": {"target": "127.0.0.1:1", "service_certificate": "cert.pem"},
        "public_name": section,
    }
    return config.parse(document, tmp_path)


def test_the_section_is_read_and_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    loaded = parsed(tmp_path, name="ledger.example.org", key=ARN, folder="name", endpoint="127.0.0.1:9", roots=["cert.pem"])
    address = sections.Address("127.0.0.1", 1)
    made = json.loads(config.enclave_document(loaded, rpc=address, peer=address, isolation=[], roots=[], own_measurement=None))
    assert made["public_name"]["endpoint"] == {"host": "127.0.0.1", "port": 9}
    assert made["public_name"]["credentials"]["access_key_id"] == KEYS["AWS_ACCESS_KEY_ID"]
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in repr(loaded)


def test_every_problem_of_the_section_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsed(tmp_path, endpoint="nowhere", more=1)
    said = str(caught.value)
    for key in ("name", "key", "folder", "endpoint", "more"):
        assert f"public_name.{key}" in said
