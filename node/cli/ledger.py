"""`ledgerd ledger`: read, export and verify ledgers offline: a node's directory (LMDB and its journal) or CCF's chunk files, alike.

Nothing here is believed but bytes and the certificate that the caller names.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import click

from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError
from ledgerd.ledger.ids import Seqno, parse_transaction_id
from ledgerd.node.bounded_file import FileBytes, open_bounded
from ledgerd.node.cli import node_findings
from ledgerd.node.cli.allow_list import read_measurements
from ledgerd.node.cli.evidence import nitro_roots
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import FILE, FOLDER
from ledgerd.node.cli.service import SERVICE_CERT_VARIABLE, ServiceOptions, service_options

if TYPE_CHECKING:
    from ledgerd.ledger.audit import Auditor, AuditResult

LEDGER_FOLDER: Final = "ledger"  # inside a node's directory
PROGRESS_EVERY: Final = 512  # entries; drawing more often would cost more than reading
SHOWN_VALUE_BYTES: Final = 4096
FILE_BYTES_MAX: Final = 8 << 30  # of a chunk: its entries end below 4 GiB, and its table is shorter than they are


class Stored(NamedTuple):
    """One entry as read: where it stands, and how far the reading has come, in the unit of `Source.total`."""

    seqno: int
    data: bytes
    progress: int


class Source(Protocol):
    """A ledger on disk."""

    kind: str
    total: int

    def entries(self) -> Iterator[Stored]:
        """All entries in order from the first."""


class LmdbSource:
    """A node's ledger; may be in use, and is read in a process of its own."""

    kind = "lmdb"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.total = self.committed = 0
        self.look()

    def look(self) -> None:
        """Learn anew how far it goes."""
        from ledgerd.node import ledger_process  # noqa: PLC0415

        self.total, self.committed = ledger_process.look(self._folder)

    def entries(self) -> Iterator[Stored]:
        """Entries up to the last one there was when it was looked at."""
        from ledgerd.node import ledger_process  # noqa: PLC0415

        for seqno, data in ledger_process.entries(self._folder, 1, self.total):
            yield Stored(seqno, data, seqno)


class ChunkSource:
    """A folder of CCF chunk files."""

    kind = "chunks"

    def __init__(self, folder: Path) -> None:
        from ledgerd.ledger import chunks  # noqa: PLC0415

        self._files = [(folder / name, parsed) for name, parsed in chunks.arrange(sorted(os.listdir(folder)))]
        try:
            self.total = sum(path.stat().st_size for path, _ in self._files)
        except OSError as error:
            raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from None

    def entries(self) -> Iterator[Stored]:
        """Entries of all files; an error of form names its file."""
        from ledgerd.ledger import chunks  # noqa: PLC0415

        done = 0
        for path, name in self._files:
            seqno = int(name.first)
            with opened(path) as data:
                try:
                    for entry in chunks.parse(data, name):
                        done += len(entry)
                        yield Stored(seqno, entry, done)
                        seqno += 1
                except FormatError as error:
                    raise FormatError(f"{path.name}, entry {seqno}: {error}") from None
                except OSError as error:
                    raise FormatError(f"{path.name}, entry {seqno}: the file cannot be read: {error.strerror}") from None


@contextmanager
def opened(path: Path) -> Iterator[FileBytes]:
    """The bytes of a file that a stranger may have put there, and may change meanwhile, without reading all of them into memory.

    Raises: ConfigurationError: It cannot be read; or it is none, but something that a reader would wait for, or never come to the end of.
    """
    try:
        file = open_bounded(path, FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; what is no ledger file has no place in the folder") from None
    with file:
        yield FileBytes(file)


anchor_option: Final = click.option(
    "--service-cert",
    type=FILE,
    envvar=SERVICE_CERT_VARIABLE,
    help=f"The service's certificate, PEM: without it nobody can say whose ledger this is. [env {SERVICE_CERT_VARIABLE}]",
)


def open_auditor(service_cert: Path | None) -> "Auditor":
    """What verifies a ledger, entry by entry. Raises: ConfigurationError: The file has no certificate."""
    from ledgerd.ledger.audit import Auditor  # noqa: PLC0415

    try:
        return Auditor(None if service_cert is None else service_cert.read_bytes())
    except FormatError as error:
        raise ConfigurationError(f"{service_cert}: {error}") from None


def open_source(path: Path) -> LmdbSource | ChunkSource:
    """Find out what kind of ledger a folder is: a node's directory (LMDB), a CCF node's (chunk files), or the `ledger` folder in one.

    Raises: ConfigurationError: None of these.
    """
    for folder in (path, path / LEDGER_FOLDER):
        if (folder / "data.mdb").exists():
            return LmdbSource(folder)
        if folder.is_dir() and any(entry.name.startswith("ledger_") for entry in folder.iterdir()):
            return ChunkSource(folder)
    raise ConfigurationError(f"{path} holds no ledger: neither a node's data.mdb nor CCF's ledger_* files")


@command("export")
@click.argument("node_dir", type=FOLDER)
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--ask", is_flag=True, help="Ask the service (--url) up to where it is committed; the node's own notes are behind by up to a second."
)
@click.option("--chunk-bytes", type=click.IntRange(1, 1 << 30), default=5_000_000, show_default=True, help="Close a chunk at this size.")
@service_options
def ledger_export(output: Output, service: ServiceOptions, node_dir: Path, out_dir: Path, ask: bool, chunk_bytes: int) -> None:
    """Write a node's ledger as CCF chunk files.

    Works while the node runs. Files end where a signature is; those whose entries are all committed, and no others, are named
    `.committed`. OUT_DIR must be new or empty.
    """
    from ledgerd.ledger import chunks  # noqa: PLC0415
    from ledgerd.node.storage import is_signature  # noqa: PLC0415

    source = open_source(node_dir)
    if not isinstance(source, LmdbSource):
        raise ConfigurationError(f"{node_dir} is no node's directory; there is nothing to export")
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ConfigurationError(f"{out_dir} is not empty; choose a new folder, so that no two ledgers mix")
    _make(out_dir)
    committed = source.committed
    if ask:
        with service.client() as client:
            committed = max(committed, parse_transaction_id(str(client.get("/node/commit").json()["transaction_id"])).seqno)
        source.look()  # after we know what is committed, so that it is there
    chunker = chunks.Chunker(committed, chunk_size=chunk_bytes)
    files: list[str] = []
    last = 0

    def write(chunk: "chunks.Chunk") -> None:
        path = out_dir / str(chunk.name)
        with path.open("xb") as file:
            file.write(chunk.data)
            file.flush()
            os.fsync(file.fileno())
        files.append(path.name)

    with progress(output, "exporting", source.total) as advance:
        for stored in source.entries():
            for chunk in chunker.add(stored.data):
                write(chunk)
            last = stored.seqno
            if last == committed and is_signature(stored.data) and (rest := chunker.finish()) is not None:
                # Closed early, as CCF does on request: tools that read committed files only then see all that is committed.
                entries = list(chunks.parse(rest.data))
                write(chunks.Chunk(chunks.ChunkName(rest.name.first, Seqno(last), True), chunks.build(entries)))
                chunker = chunks.Chunker(committed, first=last + 1, chunk_size=chunk_bytes)
            advance(stored)
    rest = chunker.finish()
    if rest is not None:
        write(rest)
    output.record("ledger_export", {"entries": last, "committed": min(committed, last), "files": files, "folder": str(out_dir)})


@command("verify")
@click.argument("path", type=FOLDER)
@anchor_option
@click.option("--root", "roots", type=FILE, multiple=True, help="Root of nodes' evidence, PEM; may be repeated.  [default: the ledger's]")
@click.option("--measurements", type=FILE, help="Images that nodes may have run, JSON.  [default: those that the ledger allowed]")
def ledger_verify(output: Output, path: Path, service_cert: Path | None, roots: tuple[Path, ...], measurements: Path | None) -> None:
    """Recompute a ledger from its stored bytes.

    PATH is a node's directory or a folder of CCF chunk files. Every leaf is hashed from the bytes, every root compared with its
    signatures, every certificate followed to the one given. The first bad entry is named, and the last signature before it. Without a
    certificate the verdict is UNANCHORED instead of VERIFIED: nothing in the ledger contradicts it, and anybody could have made it.

    The evidence of every node that the ledger records is judged too, as of when it was recorded: by the roots and images that the
    ledger allowed then, or by those given here. It says what of it was checked, and what not. Evidence that is refused is exit status 1;
    what nobody here can judge, such as SGX quotes in a ledger of CCF's, only where roots or images are given.
    """
    from ledgerd.governance.attested_nodes import NodeAudit  # noqa: PLC0415

    nodes = NodeAudit(nitro_roots(roots) if roots else None, None if measurements is None else frozenset(read_measurements(measurements)))
    source = open_source(path)
    auditor = open_auditor(service_cert)
    try:
        with progress(output, "verifying", source.total) as advance:
            for stored in source.entries():
                nodes.feed(auditor.feed(stored.data))
                advance(stored)
        result = auditor.result()
    except (IntegrityError, FormatError) as error:
        good = None if auditor.signed is None else str(auditor.signed)
        fields = {"verdict": "REFUSED", "path": str(path), "kind": source.kind, "good_up_to": good, "reason": str(error)}
        output.record("ledger_verify", fields)
        raise Ended(EXIT_FAILED) from None
    if result.transactions == 0:
        raise IntegrityError(f"{path} holds no entries; nothing is verified by that")
    findings = nodes.findings()
    fields = _verdict(path, source.kind, result)
    refused = node_findings.refusal(findings, strict=bool(roots) or measurements is not None)
    if refused is not None:
        fields = {**fields, "verdict": "REFUSED", "good_up_to": fields["last_signed"], "reason": refused}
    shown = node_findings.records(findings) if output.json else node_findings.summary(findings)
    output.record("ledger_verify", {**fields, "nodes": shown})
    for note in node_findings.notes(findings):
        output.note(note)
    if refused is not None:
        raise Ended(EXIT_FAILED)
    if not result.anchored:
        output.note("UNANCHORED: the ledger is consistent with itself; whose it is remains open. Give --service-cert FILE.")


@command("show")
@click.argument("path", type=FOLDER)
@click.option("--entry", type=click.IntRange(1), help="Show this entry's public writes.")
@click.option("--from", "first", type=click.IntRange(1), default=1, show_default=True, help="First entry of the list.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many entries to list.")
def ledger_show(output: Output, path: Path, entry: int | None, first: int, limit: int) -> None:
    """List a ledger's entries, or show one.

    Nothing is verified here. Private maps are sealed: of those only the size is known.
    """
    from ledgerd.ledger.entry import read_public  # noqa: PLC0415
    from ledgerd.ledger.signature import SIGNATURES  # noqa: PLC0415

    source = open_source(path)
    rows: list[dict[str, Any]] = []
    more = False
    for stored in source.entries():
        if entry is not None:
            if stored.seqno == entry:
                output.record("ledger_entry", _entry_fields(stored))
                output.note("What it writes to private maps, if anything, is sealed: only public writes are shown.")
                return
            continue
        if stored.seqno < first:
            continue
        if len(rows) == limit:
            more = True
            break
        public = read_public(stored.data)
        rows.append(
            {
                "transaction_id": f"{public.view}.{public.seqno}",
                "kind": "signature" if SIGNATURES in public.writes else "transaction",
                "bytes": len(stored.data),
                "public_maps": list(public.writes),
            }
        )
    if entry is not None:
        raise ConfigurationError(f"there is no entry {entry} in {path}")
    output.rows("ledger_entries", ("transaction_id", "kind", "bytes", "public_maps"), rows, more=more)
    if more:
        output.note(f"There are more: --from {first + limit}, or --limit.")
    elif not rows:
        output.note(f"There is no entry {first} or later in {path}.")


def _verdict(path: Path, kind: str, result: "AuditResult") -> dict[str, Any]:
    return {
        "verdict": "VERIFIED" if result.anchored else "UNANCHORED",
        "path": str(path),
        "kind": kind,
        "transactions": result.transactions,
        "signatures": result.signatures,
        "last_transaction_id": str(result.last_transaction_id),
        "last_signed": None if result.last_signed is None else str(result.last_signed),
        "last_root": None if result.last_root is None else result.last_root.hex(),
        "unsigned": result.unsigned,
        "service_status": result.service_status,
        "recoveries": result.recoveries,
    }


def _entry_fields(stored: Stored) -> dict[str, Any]:
    from ledgerd.ledger.entry import read_public  # noqa: PLC0415

    public = read_public(stored.data)
    return {
        "transaction_id": f"{public.view}.{public.seqno}",
        "bytes": len(stored.data),
        "entry_type": public.entry_type,
        "flags": public.flags,
        "claims_digest": None if public.claims_digest is None else public.claims_digest.hex(),
        "leaf": public.leaf.hex(),
        "writes": {
            name: {_readable(key): None if value is None else _readable(value) for key, value in keys.items()}
            for name, keys in public.writes.items()
        },
    }


def _readable(data: bytes) -> str:
    """Text if it is text, else hex; the start only, of what is long."""
    shown = data[:SHOWN_VALUE_BYTES]
    more = f"... ({len(data)} bytes)" if len(data) > len(shown) else ""
    try:
        text = shown.decode()
    except UnicodeDecodeError:
        return f"0x{shown.hex()}{more}"
    return (text if text.isprintable() or ("\n" in text and text.replace("\n", "").isprintable()) else f"0x{shown.hex()}") + more


class Advance(Protocol):
    def __call__(self, stored: Stored) -> None: ...


@contextmanager
def progress(output: Output, what: str, total: int) -> Iterator[Advance]:
    """A bar on standard error where that is a terminal; nothing elsewhere."""
    if output.json or not sys.stderr.isatty():
        yield lambda stored: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TextColumn("entry {task.fields[seqno]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, seqno=0)

        def advance(stored: Stored) -> None:
            if stored.seqno % PROGRESS_EVERY == 0:
                progress.update(task, completed=stored.progress, seqno=stored.seqno)

        yield advance


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make {folder}: {error.strerror}") from None
