"""The section of the host's configuration: typed refusals that name the key and show no secret."""

import base64
from typing import Any

import pytest

from ledgerd.enclave.kms import settings
from ledgerd.enclave.kms.sealed import BLOB_SIZE_BYTES_MAX
from ledgerd.ledger.errors import ConfigurationError
from support.kms import SERVER

SECRET = "x" * 40
RIGHT: dict[str, Any] = {
    "name": "ledger.example.org",
    "key": "arn:aws:kms:eu-central-1:111122223333:key/a",
    "roots": [],
    "endpoint": None,
    "credentials": {"access_key_id": "A" * 20, "secret_access_key": SECRET, "session_token": None},
    "sealed": None,
    "chain": "",
}


def test_a_right_section_is_read() -> None:
    found = settings.read(RIGHT)
    assert found.relevant() == {"name": RIGHT["name"], "key": RIGHT["key"]}
    assert found.endpoint.host == found.endpoint.name == "kms.eu-central-1.amazonaws.com"
    assert found.roots == () and found.public_name.sealed is None
    assert SECRET not in repr(found)
    more = settings.read(
        {**RIGHT, "roots": [SERVER.root_pem], "endpoint": {"host": "::1", "port": 9}, "sealed": "YQ==", "credentials": None}
    )
    assert (more.endpoint.host, more.endpoint.port, more.endpoint.name) == ("::1", 9, "kms.eu-central-1.amazonaws.com")
    assert (len(more.roots), more.public_name.sealed, more.credentials) == (1, b"a", None)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "localhost"},
        {"name": "Ledger.example.org"},
        {"name": "*.example.org"},
        {"name": "a" * 64 + ".example.org"},
        {"name": ("a" * 60 + ".") * 5 + "org"},
        {"name": "ledger.example.org\n"},
        {"name": None},
        {"key": "alias/x"},
        {"key": 7},
        {"roots": "PEM"},
        {"roots": [7]},
        {"roots": ["nonsense"]},
        {"roots": [""] * 21},
        {"endpoint": "kms:443"},
        {"endpoint": {"host": "a b", "port": 443}},
        {"endpoint": {"host": "a", "port": 0}},
        {"endpoint": {"host": "a", "port": True}},
        {"credentials": []},
        {"credentials": {"access_key_id": "A" * 20}},
        {"credentials": {"access_key_id": "A" * 20, "secret_access_key": SECRET + "\r\n"}},
        {"credentials": {"access_key_id": "A" * 20, "secret_access_key": SECRET, "session_token": 7}},
        {"sealed": "?"},
        {"sealed": 7},
        {"sealed": base64.b64encode(bytes(2 * BLOB_SIZE_BYTES_MAX)).decode()},
        {"chain": None},
        {"chain": "x" * (settings.CHAIN_LENGTH_MAX + 1)},
    ],
)
def test_a_wrong_section_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.read({**RIGHT, **change})
    assert SECRET not in str(caught.value)
