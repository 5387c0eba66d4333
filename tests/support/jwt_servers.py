"""Servers of issuers in memory, and a node's refreshes that ask them, with virtual time."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from ledgerd.enclave.boundary import Ready
from ledgerd.enclave.jwt.refresh import METADATA, Refresh
from ledgerd.enclave.jwt.settings import JwtSettings
from ledgerd.enclave.kv import Store
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.node.simulator.kms_server import ServerIdentity, make_identity
from support.executing import NOW_S
from support.jwt import jwk as make_jwk
from support.jwt import key
from support.kms import ServerEnd

HOST: Final = "issuer.example"
NAME: Final = f"https://{HOST}"
JWKS_PATH: Final = "/keys"
BUNDLE: Final = "roots"

Page = bytes | Callable[[bytes], bytes | None]
"""What a server says to a request, or how it finds out; None to say nothing."""


@cache
def identity(name: str) -> ServerIdentity:
    """A server's certificate below an authority of its own, valid around the tests' attested time."""
    return make_identity(name, now=datetime.fromtimestamp(NOW_S, UTC))


def page(document: Any, status: int = 200, headers: str = "") -> bytes:
    """An answer with a JSON body."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n%s" % (status, headers.encode(), len(body), body)


class Web:
    """Servers by host and port, and what they say by path."""

    def __init__(self, *, valid_now: bool = False) -> None:
        """Args: valid_now: certificates are valid at the real time, not at that of the tests without nodes."""
        self._make = make_identity if valid_now else identity
        self.identities: dict[tuple[str, int], ServerIdentity] = {}
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []  # URLs, in order
        self.silent = False

    def issuer(self, name: str = NAME, *keys: dict[str, Any], jwks_uri: str | None = None) -> None:
        """Publish an issuer with these keys."""
        host = name.removeprefix("https://").split("/", maxsplit=1)[0]
        if (host, 443) not in self.identities:
            self.identities[host, 443] = self._make(host)
        uri = jwks_uri or f"https://{host}{JWKS_PATH}"
        self.pages[f"{name.removesuffix('/')}{METADATA}"] = page({"issuer": name, "jwks_uri": uri})
        self.pages[uri] = page({"keys": list(keys) or [make_jwk(key("P-256"), "k")]})


class Wire:
    """One connection to a server."""

    def __init__(self, web: Web, host: str, port: int) -> None:
        self.web = web
        self.authority = host if port == 443 else f"{host}:{port}"
        self.end = ServerEnd(web.identities[host, port])

    def feed(self, data: bytes) -> bytes:
        """The client's bytes to the server's."""
        if self.web.silent:
            return b""
        self.end.feed(data)
        head, mark, _ = self.end.asked.partition(b"\r\n\r\n")
        if mark:
            self.end.asked = b""
            url = f"https://{self.authority}{head.split(b' ')[1].decode()}"
            self.web.asked.append(url)
            found = self.web.pages.get(url, page({}, 404))
            said = found if isinstance(found, bytes) else found(head)
            if said is not None:
                self.end.say(said)
        return self.end.take_output()


class Rig:
    """A primary's refreshes, the state, and the web."""

    def __init__(self, web: Web | None = None, hosts: tuple[str, ...] = (HOST,), refresh_seconds: int = 1800) -> None:
        self.web = web or Web()
        self.store = Store()
        self.now = 50.0
        self.is_primary = True
        self.logs: list[tuple[str, str]] = []
        self.entries: list[WriteSet] = []
        self.wires: dict[int, Wire] = {}
        self.closed: list[int] = []
        self.cut = False  # each stream, when the server has been asked
        self._streams = 0
        self.refresh = Refresh(JwtSettings(refresh_seconds, frozenset(hosts)), self.store, self._stream, self.now_ms, self._log)

    def now_ms(self) -> int:
        """Attested time."""
        return NOW_S * 1000 + int((self.now - 50.0) * 1000)

    def _stream(self) -> int:
        self._streams -= 1
        return self._streams

    def _log(self, level: str, text: str) -> None:
        self.logs.append((level, text))

    def govern(self, writes: WriteSet) -> None:
        """An entry of governance."""
        self.store.apply(self.store.version + 1, writes)
        self.refresh.governance_changed()

    def set_issuer(self, name: str = NAME, *, root: str | None = None, **metadata: Any) -> None:
        """As the actions set_ca_cert_bundle and set_jwt_issuer write it."""
        host = name.removeprefix("https://").split("/", maxsplit=1)[0]
        root_pem = identity(host).root_pem if root is None else root
        record = {"issuer": name, "auto_refresh": True, "ca_cert_bundle_name": BUNDLE, **metadata}
        self.govern(
            {
                tables.CA_CERT_BUNDLES: {BUNDLE.encode(): tables.encode(root_pem)},
                tables.JWT_ISSUERS: {name.encode(): tables.encode(record)},
            }
        )

    def run(self, seconds: float = 0.1) -> None:
        """Let time pass, and everything happen that is due."""
        end = self.now + seconds
        while True:
            self.refresh.tick(self.now, self.is_primary)
            while self._step():
                pass
            if self.now >= end:
                return
            self.now = min(self.now + 1.0, end)

    def _step(self) -> bool:
        while self.is_primary and (writes := self.refresh.due()) is not None:
            self.entries.append(writes)
            self.store.apply(self.store.version + 1, writes)
        ready = Ready()
        self.refresh.carry_out(ready)
        for connect in ready.connects:
            if (connect.host, connect.port) in self.web.identities:
                self.wires[connect.stream] = Wire(self.web, connect.host, connect.port)
                self.refresh.opened(connect.stream)
            else:
                self.refresh.closed(connect.stream)
        for stream, data in ready.peer_bytes:
            answer = self.wires[stream].feed(data)
            if answer and self.refresh.owns(stream):
                self.refresh.received(stream, answer)
            if self.cut and self.refresh.owns(stream):
                self.refresh.closed(stream)
        for stream in ready.closes:
            self.wires.pop(stream, None)
            self.closed.append(stream)
        return bool(ready.connects or ready.peer_bytes or ready.closes)

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Attempts, successes, failures."""
        shown = self.refresh.metrics()
        return shown["attempts"], shown["successes"], shown["failures"]

    def failure(self, name: str = NAME) -> str:
        """Why the last refresh of an issuer failed, as metrics and log tell it."""
        told = self.refresh.metrics()["issuers"][name]["last_failure"]
        assert told is not None and self.logs[-1] == ("warning", f"keys of JWT issuer {name} were not refreshed: {told}")
        return str(told)
