"""Digests, in a module of their own: most scripts that call anything call these, and they need nothing that takes time to import."""

from collections.abc import Mapping
from hashlib import sha256, sha384, sha512
from typing import Any, Final

from ledgerd.enclave.runtime.crypto.arguments import Function, Kind, RefusalError, Surroundings, octets, text

DIGESTS: Final = {"SHA-256": sha256, "SHA-384": sha384, "SHA-512": sha512}


def _digest(_: Surroundings, algorithm: Any, data: Any) -> bytes:
    found = DIGESTS.get(text(algorithm, "algorithm"))
    if found is None:
        raise RefusalError(f"unsupported digest algorithm, supported: {', '.join(DIGESTS)}", Kind.RANGE)
    return found(octets(data, "data")).digest()


FUNCTIONS: Final[Mapping[str, Function]] = {"digest": _digest}
