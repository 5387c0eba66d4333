"""What the host hands in about tokens."""

from typing import Any

import pytest

from ledgerd.enclave.jwt.settings import JwtSettings, read
from ledgerd.ledger.errors import ConfigurationError


def test_hosts_are_compared_in_one_spelling() -> None:
    read_back = read({"key_refresh_interval_s": 7, "hosts": ["A.example", "b.example:443", "c.example:8443"]})
    assert read_back == JwtSettings(7, frozenset({"a.example", "b.example", "c.example:8443"}))
    assert read(None) == JwtSettings(1800, frozenset())


@pytest.mark.parametrize(
    "section",
    [
        [],
        {},
        {"key_refresh_interval_s": 0, "hosts": []},
        {"key_refresh_interval_s": True, "hosts": []},
        {"key_refresh_interval_s": 1e9, "hosts": []},
        {"key_refresh_interval_s": 604_801, "hosts": []},
        {"key_refresh_interval_s": 1, "hosts": "a"},
        {"key_refresh_interval_s": 1, "hosts": [1]},
        {"key_refresh_interval_s": 1, "hosts": ["a"] * 1001},
        {"key_refresh_interval_s": 1, "hosts": ["a" * 301]},
    ],
)
def test_what_is_out_of_bounds_is_refused_with_its_key(section: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"jwt\.(key_refresh_interval_s|hosts) must be"):
        read(section)
