"""What `ledgerd dev` sets for an application in JavaScript."""

import json

from ledgerd.enclave.javascript.options import DEFAULTS, Options, read_options
from ledgerd.node.dev_application import OPTIONS


def test_the_limits_are_those_that_hold_where_nobody_has_set_any_and_exceptions_are_told() -> None:
    assert read_options(json.dumps(OPTIONS).encode()) == (Options(DEFAULTS, logs_exceptions=True, returns_exceptions=True), "")
