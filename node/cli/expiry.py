"""Until when the certificates of a service and its nodes hold, and what members do in time: nothing renews them but a vote.

Pure. Not here: asking for them (`node.cli.status`).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

WARNED_BEFORE: Final = timedelta(days=30)  # a vote may take weeks


def until(pem: object) -> datetime | None:
    """When a certificate ends; None if it is none."""
    from cryptography import x509  # noqa: PLC0415 (slow to load, and help needs none)

    try:
        return x509.load_pem_x509_certificate(str(pem).encode()).not_valid_after_utc
    except Exception:  # the library's list of what it raises for strange bytes is long
        return None


def warnings(service: datetime | None, nodes: Mapping[str, datetime | None], now: datetime) -> list[str]:
    """What is to be said of certificates that end soon, or have ended.

    Args: nodes: Of the trusted nodes, by name.
    """
    found = []
    if service is not None and service - now < WARNED_BEFORE:
        words = f"The service's certificate {_ends(service, now)}, and with it every session."
        found.append(f"{words} Members renew it: ledgerd gov propose set-service-certificate-validity")
    soon = sorted((end, name) for name, end in nodes.items() if end is not None and end - now < WARNED_BEFORE)
    if len(soon) == 1:
        ((end, name),) = soon
        action = f"ledgerd gov propose set-node-certificate-validity --node-id {name}"
        found.append(f"The certificate of node {name[:16]}... {_ends(end, now)}. Members renew it: {action}")
    elif soon:
        words = f"The certificates of {len(soon)} nodes end soon; the first {_ends(soon[0][0], now)}."
        found.append(f"{words} Members renew them: ledgerd gov propose set-all-nodes-certificate-validity")
    return found


def _ends(end: datetime, now: datetime) -> str:
    date = f"{end:%Y-%m-%d %H:%M} UTC"
    left = end - now
    if left <= timedelta():
        return f"ended on {date}"
    days = left.days
    return f"ends on {date}, in {'less than a day' if days < 1 else 'a day' if days == 1 else f'{days} days'}"
