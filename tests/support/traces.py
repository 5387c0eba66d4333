"""Finds a secret in whatever an onlooker may hold: raw, and in every form in which software usually writes bytes down."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping

FORMS_SECRET_SIZE_BYTES_MIN = 12  # a shorter one could be found by chance


def forms(secret: bytes) -> dict[str, bytes]:
    """Every form searched for, by name. Text that is UTF-8 is also searched as JSON and percent-encoding write it."""
    assert len(secret) >= FORMS_SECRET_SIZE_BYTES_MIN
    found = {
        "raw": secret,
        "reversed": secret[::-1],
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "decimal": str(int.from_bytes(secret, "big")).encode(),
        "list of numbers": ", ".join(map(str, secret)).encode(),
        "list of numbers, compact": ",".join(map(str, secret)).encode(),
        "repr": repr(secret)[2:-1].encode(),
    }
    for before in range(3):
        # Characters that also hold bits of a neighbour are left out.
        encoded = base64.b64encode(bytes(before) + secret)
        whole = encoded[{0: 0, 1: 2, 2: 3}[before] : (before + len(secret)) * 8 // 6]
        found[f"base64 at {before}"] = whole
        found[f"base64url at {before}"] = whole.replace(b"+", b"-").replace(b"/", b"_")
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return found
    escaped = "".join(f"\\u{ord(character):04x}" for character in text)
    found["JSON"] = json.dumps(text)[1:-1].encode()
    found["JSON in UTF-8"] = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    found["JSON, all escaped"] = escaped.encode()
    found["JSON, all ESCAPED"] = escaped.upper().replace("\\U", "\\u").encode()
    found["JSON twice"] = json.dumps(json.dumps(text)[1:-1])[1:-1].encode()
    found["percent"] = "".join(f"%{byte:02X}" for byte in secret).encode()
    found["UTF-16"] = text.encode("utf-16-le")
    return found


def traces(secrets: Mapping[str, bytes], places: Iterable[tuple[str, bytes | bytearray]]) -> Iterator[str]:
    """Say which secret is seen where, and how. Lines are also searched as if they were one, since PEM and others break them."""
    wanted = [(name, how, form) for name, secret in secrets.items() for how, form in forms(secret).items()]
    for place, data in places:
        unbroken = bytes(data).replace(b"\\r", b"").replace(b"\\n", b"").translate(None, b"\r\n")
        yield from (f"{name} in {place} as {how}" for name, how, form in wanted if form in data or form in unbroken)
