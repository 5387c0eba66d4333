"""Images that are accepted, as people write them: a file of measurements."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ledgerd.ledger.errors import ConfigurationError

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.measurement import Measurement


def read_measurements(file: Path) -> "list[Measurement]":
    """Read the images in a file: an object with `pcr0`, `pcr1` and `pcr2`, a list of such, or what `nitro-cli` prints.

    Raises: ConfigurationError: There are none in it.
    """
    from ledgerd.ledger.attestation.measurement import Measurement, parse_measurement  # noqa: PLC0415

    lines: list[Measurement] = []
    try:
        document = json.loads(file.read_bytes())
        document = document.get("Measurements", document) if isinstance(document, dict) else document
        for item in document if isinstance(document, list) else [document]:
            line = {name.lower(): value for name, value in item.items()}
            lines.append(parse_measurement(line["pcr0"], line["pcr1"], line["pcr2"], line.get("pcr8"), line.get("pcr3")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        lines = []
    if not lines:
        raise ConfigurationError(f"{file} holds no measurements: PCR0, PCR1 and PCR2 in hex, as JSON")
    return lines
