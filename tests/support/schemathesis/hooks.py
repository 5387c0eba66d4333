"""What Schemathesis has to be told of our bodies; it loads this in its own environment (`scripts/oracles`)."""

from typing import Any

import schemathesis  # type: ignore[import-not-found]


@schemathesis.serializer("application/cose")  # type: ignore[untyped-decorator]
def signed(_context: Any, value: Any) -> bytes:
    """A signed body: whatever bytes are drawn, none of which anybody has signed."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
