"""The bill of materials that lies beside an image: everything that went into it, with hashes, as CycloneDX 1.5.

Same image, same bytes: its serial number comes from PCR0, and no time stands in it.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.node.image.lock import Locked

_NAMES: Final = uuid.UUID("6f6b2d4e-3c0a-5a55-8f0e-0e6c65646772")  # our own name space for serial numbers; any fixed value would do


def bill(
    name: str,
    version: str,
    measurement: Measurement,
    packages: Sequence[Locked],
    wheels: Sequence[Locked],
    blobs: Mapping[str, bytes],
    modules: Mapping[str, bytes],
) -> bytes:
    """Write the bill.

    Args:
        name: Of the image.
        version: Of ledgerd.
        measurement: Of the image.
        packages: Debian packages, of which parts went in.
        wheels: The same, of PyPI.
        blobs: What the caller gave (kernel, ramdisk 0), by name.
        modules: Our own sources and the application's, by path.
    """
    registers = {"pcr0": measurement.pcr0, "pcr1": measurement.pcr1, "pcr2": measurement.pcr2, "pcr8": measurement.pcr8}
    components: list[dict[str, Any]] = []
    for item in packages:
        purl = f"pkg:deb/debian/{item.name}@{_escape(item.version)}?arch={item.architecture}&distro=debian-12"
        components.append(_component("library", item.name, item.version, item.sha256, purl))
    for item in wheels:
        purl = f"pkg:pypi/{item.name.lower()}@{_escape(item.version)}"
        components.append(_component("library", item.name, item.version, item.sha256, purl))
    components += [_component("firmware", blob, None, sha256(data).hexdigest(), None) for blob, data in blobs.items()]
    components += [_component("file", path, None, sha256(data).hexdigest(), None) for path, data in sorted(modules.items())]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMES, measurement.pcr0.hex())}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": name,
                "version": version,
                "properties": [{"name": f"ledgerd:{index}", "value": value.hex()} for index, value in registers.items() if value],
            }
        },
        "components": components,
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _component(kind: str, name: str, version: str | None, digest: str, purl: str | None) -> dict[str, Any]:
    reference = purl or f"{kind}:{name}"
    component = {"type": kind, "bom-ref": reference, "name": name, "version": version, "purl": purl}
    return {**{key: value for key, value in component.items() if value is not None}, "hashes": [{"alg": "SHA-256", "content": digest}]}


def _escape(version: str) -> str:
    """As package URLs want it: only what has a meaning there is escaped."""
    return version.replace("%", "%25").replace("+", "%2B").replace(":", "%3A")
