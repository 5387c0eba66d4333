"""What every test of a whole service shares: one that fails shows what its nodes said."""

from collections.abc import Generator

import pytest

from support.processes import Service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the nodes said: those that still run, and those that the error has ended."""
    report = yield
    if report.failed:
        report.sections.extend(Service.last_words)
        for service in Service.running:
            report.sections.extend(service.logs())
    Service.last_words.clear()
    return report
