"""What is said of certificates that end soon: when, and what members propose; the rest is silence."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from ledgerd.node.cli.expiry import until, warnings
from support.cluster import make_identity, of_no_version

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_certificate_says_when_it_ends_and_nothing_else_does() -> None:
    who = make_identity("somebody")
    assert until(who.pem) == who.certificate.not_valid_after_utc
    for other in (None, "", "PEM", 7, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        assert until(other) is None


def test_a_certificate_of_no_version_that_there_is_says_nothing() -> None:
    pem = of_no_version(make_identity("somebody").pem)
    with pytest.raises(x509.InvalidVersion):
        x509.load_pem_x509_certificate(pem.encode())
    assert until(pem) is None


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (31 * DAY, None),
        (30 * DAY, None),
        (30 * DAY - timedelta(seconds=1), "ends on 2027-03-31 11:59 UTC, in 29 days"),
        (1.5 * DAY, "ends on 2027-03-03 00:00 UTC, in a day"),
        (timedelta(hours=1), "ends on 2027-03-01 13:00 UTC, in less than a day"),
        (timedelta(), "ended on 2027-03-01 12:00 UTC"),
        (-2 * DAY, "ended on 2027-02-27 12:00 UTC"),
    ],
)
def test_the_service_s_certificate_is_told_of_a_month_before(left: timedelta, words: str | None) -> None:
    told = warnings(NOW + left, {}, NOW)
    if words is None:
        assert told == []
    else:
        (line,) = told
        assert line.startswith(f"The service's certificate {words}, ")
        assert line.endswith("ledgerd gov propose set-service-certificate-validity")


def test_of_nodes_one_is_named_and_several_are_renewed_together() -> None:
    nodes = {"a" * 64: NOW + 3 * DAY, "b" * 64: NOW + 300 * DAY, "c" * 64: None}
    (line,) = warnings(None, nodes, NOW)
    assert line.startswith(f"The certificate of node {'a' * 16}... ends on 2027-03-04 12:00 UTC, in 3 days.")
    assert line.endswith(f"set-node-certificate-validity --node-id {'a' * 64}")
    (line,) = warnings(None, {**nodes, "d" * 64: NOW + DAY}, NOW)
    assert line.startswith("The certificates of 2 nodes end soon; the first ends on 2027-03-02 12:00 UTC, in a day.")
    assert line.endswith("set-all-nodes-certificate-validity")
