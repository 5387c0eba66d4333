"""What every test of a whole service shares: one that fails shows what its nodes said."""

from collections.abc import Generator

import pytest

from support.processes import Service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of all services that run, while they still do."""
    report = yield
    if report.failed:
        for service in Service.running:
            for name, text in service.logs():
                report.sections.append((f"{service.folder.name}/{name}", text))
    return report
