"""Our tables against those of two ledgers that CCF wrote: the same names and keys, and records with the same fields of the same types.

What is otherwise must be, and is said here, field by field. What each action of a proposal writes:
`tests/governance/constitution/test_same_as_ccf.py`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.ledger import chunks
from ledgerd.ledger.entry import read_public
from support.cluster import make_identity
from support.governed import id_of
from support.lives import THROWING, Life
from support.members import node_id
from support.vectors import vectors

SERVICES: Final = ("cose_flipflop_service", "double_sealed_service")

# Tables of theirs that no ledger of ours has, and why.
NOT_HERE: Final = {
    "public:ccf.gov.modules_quickjs_bytecode": "modules are compiled where they run",
    "public:ccf.gov.modules_quickjs_version": "modules are compiled where they run",
    "public:ccf.gov.nodes.virtual.host_data": "a node without attestation is never admitted",
    "public:ccf.gov.nodes.virtual.measurements": "a node without attestation is never admitted",
    "public:ccf.gov.service.previous_service_identity": "no recovery yet",
    "public:ccf.internal.encrypted_submitted_shares": "no recovery yet",
    "public:ccf.internal.previous_service_identity_endorsement": "no recovery yet",
    "public:ccf.internal.previous_service_last_signed_root": "no recovery yet",
    "public:ccf.internal.snapshot_evidence": "no snapshots yet",
}
# Tables of ours that no CCF has.
OURS: Final = re.compile(r"public:ccf\.gov\.(ledgerd\.\w+|nodes\.nitro\.\w+)")

_ADDRESSES: Final = ("nodehost", "nodeport", "rpchost", "rpcport", "pubhost", "pubport")
_INTERFACE: Final = "rpc_interfaces.*."
# Fields of theirs that our records lack.
LACKING: Final = {
    "public:ccf.gov.nodes.info": {
        *_ADDRESSES,  # empty there, too, but for nodes of old versions
        *(f"{_INTERFACE}{name}" for name in ("app_protocol", "forwarding_timeout_ms", "max_open_sessions_hard", "max_open_sessions_soft")),
        *(f"{_INTERFACE}endorsement{name}" for name in ("", ".authority")),
        *(f"{_INTERFACE}http_configuration{name}" for name in ("", ".max_body_size", ".max_header_size", ".max_headers_count")),
    },
    # Of a change in a running service, of which the entry itself says from where on the secret counts; theirs are of recoveries.
    "public:ccf.internal.encrypted_ledger_secrets": {"*[].version", "*[].previous_secret_stored_version"},
    "public:ccf.internal.historical_encrypted_ledger_secret": {"next_version"},
    "public:ccf.gov.service.info": {"previous_service_identity_version"},  # no recovery yet
    "public:ccf.gov.endpoints": {"interpreter_reuse", "interpreter_reuse.key", "openapi", "redirection_strategy"},  # as a bundle says
}
# Fields of ours that theirs lack: of other versions of CCF unless said.
MORE: Final = {
    "public:ccf.gov.members.info": {"member_data", "member_data.name", "recovery_role"},
    "public:ccf.gov.nodes.info": {"program", "retired_committed"},  # the first is ours
    "public:ccf.gov.proposals_info": {"vote_failures.*", "vote_failures.*.reason", "vote_failures.*.trace"},  # nobody failed there
    "public:ccf.gov.service.config": {"recent_cose_proposals_window_size"},
}
FREE: Final = {"public:ccf.gov.proposals", "public:ccf.gov.users.info"}  # of members' own making


class Shape(NamedTuple):
    """What all records of a kind have in common, and what some of them have. Paths of fields to types; `*` stands for any name."""

    always: dict[str, str]
    sometimes: dict[str, str]


Shapes = dict[str, dict[str, Shape]]


def fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a record, and its type."""
    if path:
        yield path, type(value).__name__
    if isinstance(value, dict):
        for name, inner in value.items():
            is_name = re.fullmatch(r"[0-9a-f]{64}", name) is not None or path == "rpc_interfaces"
            step = "*" if is_name else name
            yield from fields(inner, f"{path}.{step}" if path else step)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{path}[]")


def kind_of(record: Any) -> str:
    """Records of one table differ with the state of what they are of."""
    return str(record.get("state") or record.get("status") or "") if isinstance(record, dict) else ""


def shapes(ledger: Iterable[bytes]) -> tuple[Shapes, dict[str, set[int]]]:
    """Of all public tables of CCF's names: the shapes of their records by kind, and the lengths of their keys."""
    found: Shapes = {}
    lengths: dict[str, set[int]] = {}
    for data in ledger:
        for name, rows in read_public(data).writes.items():
            if not name.startswith("public:ccf."):
                continue
            for key, value in rows.items():
                lengths.setdefault(name, set()).add(len(key))
                table = found.setdefault(name, {})
                if value is None:
                    continue
                try:
                    record = json.loads(value)
                except ValueError:
                    record = None  # PEM, a digest, a script: text or bytes
                seen = {"": "text or bytes"} if record is None else dict(fields(record)) or {"": type(record).__name__}
                kind = kind_of(record)
                before = table.get(kind)
                if before is None:
                    table[kind] = Shape(seen, seen)
                else:
                    both = {path: of for path, of in before.always.items() if seen.get(path) == of}
                    table[kind] = Shape(both, {**before.sometimes, **seen})
    return found, lengths


@pytest.fixture(scope="module")
def theirs() -> tuple[Shapes, dict[str, set[int]]]:
    def entries() -> Iterator[bytes]:
        for service in SERVICES:
            folder = vectors("ccf-ledgers", service, "ledger")
            for name, parsed in chunks.arrange([path.name for path in folder.iterdir()]):
                yield from chunks.parse((folder / name).read_bytes(), parsed)

    return shapes(entries())


@pytest.fixture(scope="module")
def ours() -> tuple[Shapes, dict[str, set[int]]]:
    """Of a service that did what those two did, and in which a ballot failed."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    life = Life(encryption_key=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
    life.begin()
    life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
    user = make_identity("user")
    life.propose("user", ("set_user", {"cert": user.pem, "user_data": {"role": "clerk"}}))
    life.vote("user", 1)
    life.vote("user", 2, THROWING)
    life.vote("user", 0, state="Accepted")
    endpoint = {
        "js_module": "a.js",
        "js_function": "a",
        "mode": "readonly",
        "forwarding_required": "never",
        "authn_policies": ["user_cert"],
    }
    module = {"name": "a.js", "module": "export function a() { return {}; }"}
    app = {"metadata": {"endpoints": {"/a": {"get": endpoint}}}, "modules": [module]}
    newcomer = ("set_member", {"cert": make_identity("newcomer").pem, "member_data": {"name": "newcomer"}})
    life.decide("more", ("set_js_app", {"bundle": app}), ("remove_user", {"user_id": id_of(user)}), newcomer)
    life.decide("secrets", ("trigger_ledger_rekey", {}))
    joiner = life.admit()
    life.decide("retire", ("remove_node", {"node_id": node_id(joiner)}))
    life.cluster.until(lambda: "retired" in joiner.notices)
    life.cluster.run(1.0)
    return shapes(life.ledger().entries)


def test_the_tables_are_ccfs(theirs: tuple[Shapes, Any], ours: tuple[Shapes, Any]) -> None:
    here = {name for name in ours[0] if OURS.fullmatch(name) is None}
    assert here == theirs[0].keys() - NOT_HERE.keys()


def test_keys_are_as_long_as_ccfs(theirs: tuple[Any, dict[str, set[int]]], ours: tuple[Any, dict[str, set[int]]]) -> None:
    """A name of 64 digits, or 8 bytes for what there is one of."""
    for name, lengths in theirs[1].items():
        if name not in NOT_HERE and name not in ("public:ccf.gov.endpoints", "public:ccf.gov.modules"):
            assert ours[1][name] == lengths, name


def test_records_have_ccfs_fields(theirs: tuple[Shapes, Any], ours: tuple[Shapes, Any]) -> None:
    compared = 0
    for name, kinds in ours[0].items():
        if name in FREE or name not in theirs[0]:
            continue
        lacking, more = LACKING.get(name, set()), MORE.get(name, set())
        every = {path: of for shape in theirs[0][name].values() for path, of in shape.sometimes.items()}
        for kind, shape in kinds.items():
            there = theirs[0][name].get(kind)
            missing = {path for path in (there.always if there else {}) if path not in shape.always} - lacking
            assert not missing, (name, kind)
            unknown = {path for path in shape.sometimes if path not in every} - more
            assert not unknown, (name, kind)
            others = {path: (of, every[path]) for path, of in shape.sometimes.items() if path in every and of != every[path]}
            assert not others, (name, kind)
            compared += len(shape.sometimes)
    assert compared > 60, "nothing to compare is no agreement"


def test_what_is_said_to_differ_does(theirs: tuple[Shapes, Any], ours: tuple[Shapes, Any]) -> None:
    """So that what is excused here does not stay so when it is mended."""
    assert not NOT_HERE.keys() & ours[0].keys()
    for name, paths in LACKING.items():
        everywhere = set.intersection(*(set(shape.always) for shape in ours[0][name].values()))
        assert not paths & everywhere, name
    for name, paths in MORE.items():
        there = {path for shape in theirs[0][name].values() for path in shape.always}
        assert not paths & there, name
