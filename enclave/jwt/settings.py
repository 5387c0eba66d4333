"""The section `jwt` of the configuration that the host hands in: read, bounded, typed.

All of it is the operator's: how often to ask, and whom its host may be led to. What is believed of the answers is the members' decision.
"""

from dataclasses import dataclass
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError

REFRESH_SECONDS_DEFAULT: Final = 1800  # CCF's
REFRESH_SECONDS_MAX: Final = 7 * 86_400
HOSTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """How keys of issuers are refreshed.

    Attributes:
        refresh_seconds: From one refresh to the next.
        hosts: Servers that may be asked, as in `urls.Url.authority`: lower case, with the port if it is not 443.
    """

    refresh_seconds: int = REFRESH_SECONDS_DEFAULT
    hosts: frozenset[str] = frozenset()


DEFAULTS: Final = JwtSettings()


def read(section: Any) -> JwtSettings:
    """Read the section; None for none.

    Raises: ConfigurationError: A key is of a wrong type or out of bounds.
    """
    if section is None:
        return DEFAULTS
    seconds, hosts = (section.get("key_refresh_interval_s"), section.get("hosts")) if type(section) is dict else (None, None)
    if type(seconds) is not int or not 1 <= seconds <= REFRESH_SECONDS_MAX:
        raise ConfigurationError(f"jwt.key_refresh_interval_s must be a whole number from 1 to {REFRESH_SECONDS_MAX}")
    if type(hosts) is not list or len(hosts) > HOSTS_MAX or not all(type(host) is str and len(host) <= 300 for host in hosts):
        raise ConfigurationError(f'jwt.hosts must be a list of at most {HOSTS_MAX} texts, "HOST" or "HOST:PORT"')
    return JwtSettings(seconds, frozenset(host.lower().removesuffix(":443") for host in hosts))
