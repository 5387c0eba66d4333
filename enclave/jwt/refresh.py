"""Keeps the keys of issuers as fresh as their servers publish them: for each issuer with `auto_refresh`, by the primary, now and then.

Asked for are `ISSUER/.well-known/openid-configuration` and then its `jwks_uri`, as OpenID Connect Discovery says, each on a connection of
its own. What comes back is read like a key set that members propose, and written only if something changed: a refresh that brings nothing
new leaves no trace in the ledger. Whatever fails is counted, told to the operator with its cause, and tried again, with patience.
Sans-IO: streams are asked of the host, and only to servers that its operator allows.
Not here: one request (`enclave.jwt.fetch`), making the entry (`enclave.serving`).
"""

from collections.abc import Callable
from typing import Any, Final

from cryptography import x509

from ledgerd.enclave.boundary import Connect, Ready
from ledgerd.enclave.jwt import jwks
from ledgerd.enclave.jwt.fetch import Fetch
from ledgerd.enclave.jwt.records import KeyRecord, changes
from ledgerd.enclave.jwt.settings import JwtSettings
from ledgerd.enclave.jwt.urls import Url, parse
from ledgerd.enclave.keys import at_milliseconds
from ledgerd.enclave.kv import Store
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError, LedgerdError

ATTEMPT_SECONDS_MAX: Final = 10.0  # for each of the two documents
PATIENCE_SECONDS: Final = 60.0  # after a first failure; doubled with each further one, up to the interval
RUNNING_MAX: Final = 4  # issuers at one time; one that is slow must not keep the others waiting
METADATA: Final = "/.well-known/openid-configuration"
SHOWN_LENGTH_MAX: Final = 400


class _Issuer:
    """What is known of one issuer that wants to be refreshed."""

    def __init__(self, record: bytes, due_at: float) -> None:
        self.record = record
        self.due_at = due_at
        self.succeeded_at_s: int | None = None  # attested
        self.failed_in_a_row = 0
        self.failure: str | None = None  # the last one, since the last success


class _Attempt:
    """One refresh of one issuer."""

    def __init__(self, issuer: str, record: bytes, bundle: bytes, roots: tuple[x509.Certificate, ...]) -> None:
        self.issuer = issuer
        self.record = record
        self.bundle = bundle
        self.roots = roots
        self.has_metadata = False
        self.fetch: Fetch | None = None
        self.is_open = False
        self.deadline = float("inf")


class Refresh:
    """The refreshes of one node."""

    def __init__(
        self,
        settings: JwtSettings,
        store: Store,
        next_stream: Callable[[], int],
        now_ms: Callable[[], int],
        log: Callable[[str, str], None],
    ) -> None:
        """Args: now_ms: attested time. log: tells the operator."""
        self._settings = settings
        self._store = store
        self._next_stream = next_stream
        self._now_ms = now_ms
        self._log = log
        self._context: TlsContext | None = None  # made with the first question: most services have no such issuer
        self._now = 0.0
        self._is_primary = False
        self._changed = True
        self._issuers: dict[str, _Issuer] = {}
        self._running: dict[int, _Attempt] = {}  # by stream
        self._fetched: list[tuple[_Attempt, dict[str, KeyRecord]]] = []
        self._connects: list[Connect] = []
        self._closes: list[int] = []
        self._attempts = self._successes = self._failures = 0

    def metrics(self) -> dict[str, Any]:
        """As `GET /node/jwt_keys/refresh/metrics` shows it: CCF's numbers of this node, and ours of each issuer."""
        return {
            "attempts": self._attempts,
            "successes": self._successes,
            "failures": self._failures,
            "issuers": {
                name: {
                    "last_success_at_s": issuer.succeeded_at_s,
                    "failures_in_a_row": issuer.failed_in_a_row,
                    "last_failure": issuer.failure,
                }
                for name, issuer in sorted(self._issuers.items())
            },
        }

    # Inputs.

    def governance_changed(self) -> None:
        """Issuers may have come, gone or changed; whoever is new is refreshed at once."""
        self._changed = True

    def tick(self, now: float, is_primary: bool) -> None:
        """Learn the time and the node's role; begin what is due, and give up what takes too long."""
        self._now = now
        if is_primary is not self._is_primary:
            self._is_primary = is_primary
            self._changed = True
            if not is_primary:
                self._stop()
        if not is_primary:
            return
        if self._changed:
            self._changed = False
            self._learn()
        for stream in [stream for stream, attempt in self._running.items() if attempt.deadline <= now]:
            self._failed(stream, f"its server did not answer within {ATTEMPT_SECONDS_MAX:.0f} seconds")
        for name, issuer in self._issuers.items():
            if issuer.due_at <= now and len(self._running) < RUNNING_MAX:
                self._begin(name, issuer)

    def owns(self, stream: int) -> bool:
        """Whether a stream is one that was asked for here."""
        return stream in self._running

    def opened(self, stream: int) -> None:
        """The host has connected our stream."""
        self._running[stream].is_open = True

    def received(self, stream: int, data: bytes) -> None:
        """Bytes of our stream."""
        attempt = self._running[stream]
        assert attempt.fetch is not None, "what runs has begun"
        try:
            document = attempt.fetch.received(data)
            if document is not None:
                self._read(stream, attempt, document)
        except LedgerdError as error:
            self._failed(stream, str(error))

    def closed(self, stream: int) -> None:
        """Our stream is gone, or could not be had."""
        attempt = self._running[stream]
        reason = "no connection to its server could be had"
        if attempt.is_open and attempt.fetch is not None:
            try:
                attempt.fetch.closed()
            except LedgerdError as error:
                reason = str(error)
        del self._running[stream]
        self._note_failure(attempt.issuer, reason)

    # Outputs.

    def due(self) -> WriteSet | None:
        """On the primary: what a refresh has brought that is new, as of the state now; to be written before it is asked for again."""
        while self._fetched:
            attempt, keys = self._fetched.pop(0)
            issuer = self._issuers.get(attempt.issuer)
            if issuer is None or not self._is_current(attempt):
                continue  # members have decided otherwise meanwhile; the new decision has its own refresh
            found = changes(self._store.map(tables.JWT_KEYS).items(), attempt.issuer, keys)
            self._successes += 1
            issuer.succeeded_at_s = self._now_ms() // 1000
            issuer.failed_in_a_row, issuer.failure = 0, None
            issuer.due_at = self._now + self._settings.refresh_seconds
            if found:
                self._log("info", f"keys of JWT issuer {attempt.issuer[:200]} were refreshed: {len(keys)} keys, {len(found)} rows changed")
                return {tables.JWT_KEYS: found}
        return None

    def carry_out(self, ready: Ready) -> None:
        """Say what the host must do."""
        if not (self._connects or self._running or self._closes):
            return
        ready.connects.extend(self._connects)
        self._connects.clear()
        for stream, attempt in self._running.items():
            if attempt.is_open and attempt.fetch is not None:
                data = attempt.fetch.take_output()
                if data:
                    ready.peer_bytes.append((stream, data))
        ready.closes.extend(self._closes)
        self._closes.clear()

    # One issuer.

    def _learn(self) -> None:
        known = self._issuers
        self._issuers = {}
        for key, record in self._store.map(tables.JWT_ISSUERS).items():
            name, metadata = key.decode(errors="replace"), _metadata(record)
            if metadata.get("auto_refresh") is not True:
                continue
            # With its bundle, since another bundle may be what makes the next attempt succeed.
            whole = record + b"\0" + (self._bundle(metadata) or b"")
            issuer = known.get(name)
            self._issuers[name] = issuer if issuer is not None and issuer.record == whole else _Issuer(whole, self._now)
        for stream in [stream for stream, attempt in self._running.items() if not self._is_current(attempt)]:
            self._drop(stream)

    def _bundle(self, metadata: dict[str, Any]) -> bytes | None:
        name = metadata.get("ca_cert_bundle_name")
        return self._store.get(tables.CA_CERT_BUNDLES, name.encode(errors="replace")) if type(name) is str else None

    def _is_current(self, attempt: _Attempt) -> bool:
        record = self._store.get(tables.JWT_ISSUERS, attempt.issuer.encode())
        return record == attempt.record and self._bundle(_metadata(record or b"")) == attempt.bundle

    def _begin(self, name: str, issuer: _Issuer) -> None:
        self._attempts += 1
        issuer.due_at = float("inf")
        record = self._store.get(tables.JWT_ISSUERS, name.encode()) or b""
        metadata = _metadata(record)
        bundle = self._bundle(metadata)
        try:
            if bundle is None:
                raise FormatError(f"there is no CA bundle {metadata.get('ca_cert_bundle_name')!r}; set_ca_cert_bundle makes one")
            attempt = _Attempt(name, record, bundle, _roots(bundle))
            self._ask(attempt, parse(name.removesuffix("/") + METADATA))
        except LedgerdError as error:
            self._note_failure(name, str(error))

    def _ask(self, attempt: _Attempt, url: Url) -> None:
        if url.authority not in self._settings.hosts:
            raise FormatError(f"this node's operator does not allow {url.authority} to be asked; it belongs into jwt.hosts")
        if self._context is None:
            self._context = TlsContext.for_web_servers()
        attempt.fetch = Fetch(self._context, url, attempt.roots, at_milliseconds(self._now_ms()))
        attempt.is_open = False
        attempt.deadline = self._now + ATTEMPT_SECONDS_MAX
        stream = self._next_stream()
        self._running[stream] = attempt
        self._connects.append(Connect(stream, url.host, url.port))

    def _read(self, stream: int, attempt: _Attempt, document: dict[str, Any]) -> None:
        if not attempt.has_metadata:
            uri = document.get("jwks_uri")
            if type(uri) is not str:
                raise FormatError("its metadata has no jwks_uri")
            attempt.has_metadata = True
            self._ask(attempt, parse(uri))
            self._drop(stream)
            return
        left_out: list[str] = []
        keys = jwks.read(document, attempt.issuer, left_out.append)
        if left_out:
            self._log("info", f"of JWT issuer {attempt.issuer[:200]} {len(left_out)} keys are left out; the first: {left_out[0]}")
        self._drop(stream)
        self._fetched.append((attempt, keys))

    def _failed(self, stream: int, reason: str) -> None:
        attempt = self._running[stream]
        self._drop(stream)
        self._note_failure(attempt.issuer, reason)

    def _note_failure(self, name: str, reason: str) -> None:
        self._failures += 1
        text = reason[:SHOWN_LENGTH_MAX]
        self._log("warning", f"keys of JWT issuer {name[:200]} were not refreshed: {text}")
        issuer = self._issuers.get(name)
        if issuer is not None:
            patience = PATIENCE_SECONDS * 2 ** min(issuer.failed_in_a_row, 16)
            issuer.due_at = self._now + min(patience, self._settings.refresh_seconds)
            issuer.failed_in_a_row += 1
            issuer.failure = text

    def _drop(self, stream: int) -> None:
        del self._running[stream]
        self._closes.append(stream)

    def _stop(self) -> None:
        for stream in list(self._running):
            self._drop(stream)
        self._fetched.clear()
        self._issuers.clear()


def _metadata(record: bytes) -> dict[str, Any]:
    try:
        metadata = tables.decode(record)
    except (ValueError, RecursionError):
        return {}
    return metadata if type(metadata) is dict else {}


def _roots(bundle: bytes) -> tuple[x509.Certificate, ...]:
    try:
        roots = tuple(x509.load_pem_x509_certificates(tables.decode(bundle).encode()))
    except Exception:  # the library's list of what it raises for strange bytes is long
        raise FormatError("the CA bundle is not PEM certificates; set_ca_cert_bundle replaces it") from None
    return roots
