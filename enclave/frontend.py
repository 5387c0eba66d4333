"""The built-in endpoints of `/app` and `/node`: CCF's paths, answers, codes and headers.

Handlers here only read; what they cannot answer at once they promise (`Deferred`) and the core answers later.
Not here: joining (`enclave.admission`), applications (`enclave.app`), routing (`enclave.endpoints`).
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from ledgerd.enclave.built_ins import built_in
from ledgerd.enclave.endpoints import Context, Deferred, Registry, Result
from ledgerd.enclave.leaving import is_removable
from ledgerd.enclave.program import QUICKJS, VERSION
from ledgerd.enclave.requests import COSE, JSON, Response
from ledgerd.governance import tables
from ledgerd.ledger.attestation.evidence import NITRO
from ledgerd.ledger.errors import FormatError, RequestError
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View, parse_entry_id

NONCE_SIZE_BYTES_MIN: Final = 16
NONCE_SIZE_BYTES_MAX: Final = 512  # AWS's text allows 512, though its documents have been seen with 1,024

RECEIPT: Final = "receipt"
ATTESTATION: Final = "attestation"


class Node(Protocol):
    """What the built-ins ask of the node; `enclave.core` gives it."""

    @property
    def node_id(self) -> NodeId: ...
    @property
    def state(self) -> str: ...
    @property
    def is_primary(self) -> bool: ...
    @property
    def primary_id(self) -> NodeId | None: ...
    @property
    def view(self) -> View: ...
    @property
    def committed(self) -> TransactionId: ...
    @property
    def last_signed(self) -> Seqno: ...
    @property
    def view_history(self) -> list[TransactionId]: ...
    @property
    def stop_notice(self) -> bool: ...
    @property
    def retired(self) -> bool: ...
    @property
    def compiled_modules(self) -> int: ...
    @property
    def isolation(self) -> tuple[str, ...]: ...
    @property
    def simulated(self) -> bool: ...
    @property
    def self_signed_certificate(self) -> str: ...
    def status_of(self, transaction: TransactionId) -> str: ...
    def consensus_details(self) -> dict[str, Any]: ...
    def active_nodes(self) -> list[NodeId]: ...
    def metrics(self) -> dict[str, Any]: ...


class Frontend:
    """The built-ins of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def add_to(self, registry: Registry, title: Callable[[], str]) -> None:
        """Add what every frontend has: `commit`, `tx`, `receipt`, `receipt/cose`, `api`.

        Args: title: Of the OpenAPI document, as it is at the time.
        """
        from ledgerd.enclave import openapi  # noqa: PLC0415  # built once, and only when somebody asks

        def api(_: Context) -> Result:
            return openapi.document(registry, title(), f"ledgerd-{VERSION}")

        for path, handler in (
            ("/commit", self._commit),
            ("/tx", self._tx),
            ("/receipt", self._receipt),
            ("/receipt/cose", self._receipt_cose),
            ("/api", api),
        ):
            registry.add(built_in("GET", path, handler))

    def add_node_endpoints(self, registry: Registry) -> None:
        """Add what only `/node` has."""
        gets = {
            "/state": self._state,
            "/network": self._network,
            "/network/nodes": self._nodes,
            "/network/nodes/self": self._node_self,
            "/network/nodes/primary": self._node_primary,
            "/network/nodes/{node_id}": self._node_by_id,
            "/network/removable_nodes": self._removable,
            "/primary": self._primary,
            "/backup": self._backup,
            "/config": self._config,
            "/consensus": self._consensus,
            "/attestations": self._attestations,
            "/attestations/self": self._attestation_self,
            "/quotes": self._quotes,
            "/quotes/self": self._attestation_self,
            "/self_signed_certificate": self._self_signed,
            "/service/configuration": self._service_configuration,
            "/service/previous_identity": self._previous_identity,
            "/version": self._version,
            "/metrics": self._metrics,
            "/ready/app": self._ready_app,
            "/ready/gov": self._ready_gov,
        }
        for path, handler in gets.items():
            registry.add(built_in("GET", path, handler))
        registry.add(built_in("HEAD", "/primary", self._primary))
        registry.add(built_in("HEAD", "/backup", self._backup))

    # Every frontend

    def _commit(self, context: Context) -> Result:
        query = context.query
        answer: dict[str, Any] = {"transaction_id": str(self._node.committed)}
        history = self._node.view_history
        wanted = query.get("view_history", "false")
        if wanted not in ("true", "false"):
            raise RequestError(400, "InvalidQueryParameterValue", "The value of 'view_history' is neither true nor false.")
        since = _view(query["view_history_since"]) if "view_history_since" in query else None
        if wanted == "true":
            first = 1
        elif since is not None:
            first = since
            if first > self._node.view:
                raise RequestError(404, "InvalidQueryParameterValue", f"View {first} has not begun; the current view is {self._node.view}.")
        else:
            return answer
        committed = self._node.committed.seqno
        answer["view_history"] = [str(start) for start in history if start.view >= first and start.seqno <= committed]
        return answer

    def _tx(self, context: Context) -> Result:
        transaction = _transaction_id(context)
        return {"transaction_id": str(transaction), "status": self._node.status_of(transaction)}

    def _receipt(self, context: Context) -> Result:
        return Deferred(RECEIPT, (self._committed(_transaction_id(context)), JSON))

    def _receipt_cose(self, context: Context) -> Result:
        return Deferred(RECEIPT, (self._committed(_transaction_id(context)), COSE))

    def _committed(self, transaction: TransactionId) -> TransactionId:
        status = self._node.status_of(transaction)
        if status == "Invalid":
            raise RequestError(404, "TransactionInvalid", f"Transaction {transaction} is invalid: it can never be committed.")
        if status != "Committed":
            raise RequestError(
                404,
                "TransactionPendingOrUnknown",
                f"Transaction {transaction} is not committed yet, or not known to this node; ask again.",
                headers=(("cache-control", "no-cache"),),
            )
        return transaction

    # /node

    def _state(self, _: Context) -> Result:
        node = self._node
        return {
            "node_id": node.node_id,
            "state": node.state,
            "last_signed_seqno": node.last_signed,
            "startup_seqno": 0,
            "stop_notice": node.stop_notice,
            "retired": node.retired,
            "isolation": list(node.isolation),
            "simulated": node.simulated,
        }

    def _network(self, context: Context) -> Result:
        service = _record(context, tables.SERVICE_INFO, tables.SINGLETON)
        return {
            "service_status": service["status"],
            "service_certificate": service["cert"],
            "current_view": self._node.view,
            "primary_id": self._node.primary_id,
            "recovery_count": service["recovery_count"],
            "service_data": service.get("service_data"),
            "current_service_create_txid": service["current_service_create_txid"],
        }

    def _nodes(self, context: Context) -> Result:
        query = context.query
        if query.get("status", tables.TRUSTED) not in (tables.PENDING, tables.TRUSTED, tables.RETIRED):
            raise RequestError(400, "InvalidQueryParameterValue", "Query parameter 'status' is neither Pending, Trusted nor Retired.")
        found = []
        for key, value in context.governance(tables.NODE_INFO).items():
            shown = self._node_object(context, NodeId(key.decode()), tables.decode(value))
            if "status" in query and query["status"] != shown["status"]:
                continue
            addresses = [interface["published_address"] for interface in shown["rpc_interfaces"].values()]
            if "host" in query and query["host"] not in [address.rpartition(":")[0] for address in addresses]:
                continue
            if "port" in query and query["port"] not in [address.rpartition(":")[2] for address in addresses]:
                continue
            found.append(shown)
        return {"nodes": found}

    def _node_object(self, context: Context, node_id: NodeId, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "status": record["status"],
            "primary": node_id == self._node.primary_id,
            "node_data": record.get("node_data"),
            "last_written": context.governance(tables.NODE_INFO).version_of(node_id.encode()),
            "rpc_interfaces": record["rpc_interfaces"],
        }

    def _one_node(self, context: Context, node_id: NodeId) -> Result:
        record = context.governance(tables.NODE_INFO).get(node_id.encode())
        if record is None:
            raise RequestError(404, "ResourceNotFound", f"Node {node_id} is not known.")
        return self._node_object(context, node_id, tables.decode(record))

    def _node_by_id(self, context: Context) -> Result:
        return self._one_node(context, NodeId(context.params["node_id"]))

    def _node_self(self, context: Context) -> Result:
        return self._one_node(context, self._node.node_id)

    def _node_primary(self, context: Context) -> Result:
        return self._one_node(context, self._known_primary())

    def _removable(self, context: Context) -> Result:
        records = context.governance(tables.NODE_INFO)
        committed = self._node.committed.seqno
        found = [(key, tables.decode(value)) for key, value in records.items()]
        return {
            "nodes": [
                self._node_object(context, NodeId(key.decode()), record)
                for key, record in found
                if is_removable(record, records.version_of(key), committed)
            ]
        }

    def _known_primary(self) -> NodeId:
        primary = self._node.primary_id
        if primary is None:
            raise RequestError(503, "PrimaryNotFound", "No primary is known; an election is going on. Ask again.", (("retry-after", "1"),))
        return primary

    def _primary(self, context: Context) -> Result:
        if self._node.is_primary:
            return Response(200)
        return self._redirect(context, self._known_primary(), "/node/primary")

    def _backup(self, context: Context) -> Result:
        if not self._node.is_primary:
            return Response(200)
        for node_id in self._node.active_nodes():
            if node_id != self._node.node_id:
                return self._redirect(context, node_id, "/node/backup")
        raise RequestError(404, "ResourceNotFound", "This service has no backup.")

    def _redirect(self, context: Context, to: NodeId, path: str) -> Response:
        return Response(307, (("location", f"https://{address_of(context, to)}{path}"),))

    def _config(self, context: Context) -> Result:
        return {node_id: {"address": address_of(context, node_id)} for node_id in self._node.active_nodes()}

    def _consensus(self, _: Context) -> Result:
        return {"details": self._node.consensus_details()}

    def _attestations(self, context: Context) -> Result:
        return {"attestations": self._all_attestations(context)}

    def _quotes(self, context: Context) -> Result:
        return {"quotes": self._all_attestations(context)}

    def _all_attestations(self, context: Context) -> list[dict[str, Any]]:
        found = []
        for key, value in context.governance(tables.NODE_INFO).items():
            record = tables.decode(value)
            if record["status"] == tables.TRUSTED:
                shown = attestation_object(key.decode(), record["quote_info"]["quote"], record["code_digest"], self._node.simulated)
                found.append({**shown, **{name: part for name, part in record["quote_info"].items() if name != "quote"}})
        return found

    def _attestation_self(self, context: Context) -> Result:
        nonce = context.query.get("nonce")
        if nonce is None:
            return Deferred(ATTESTATION, None)
        try:
            value = bytes.fromhex(nonce)
        except ValueError:
            value = b""
        if not NONCE_SIZE_BYTES_MIN <= len(value) <= NONCE_SIZE_BYTES_MAX:
            raise RequestError(
                400,
                "InvalidQueryParameterValue",
                f"nonce must be {NONCE_SIZE_BYTES_MIN} to {NONCE_SIZE_BYTES_MAX} bytes in hexadecimal; make a fresh random one.",
            )
        return Deferred(ATTESTATION, value)

    def _self_signed(self, _: Context) -> Result:
        return {"self_signed_certificate": self._node.self_signed_certificate}

    def _service_configuration(self, context: Context) -> Result:
        return _record(context, tables.SERVICE_CONFIG, tables.SINGLETON)

    def _previous_identity(self, _: Context) -> Result:
        raise RequestError(404, "ResourceNotFound", "This service has no previous identity: it was never recovered.")

    def _version(self, _: Context) -> Result:
        node = self._node  # `compiled_modules` is ours: 0 where Python interprets everything
        return {
            "ccf_version": f"ledgerd-{VERSION}",
            "quickjs_version": QUICKJS,
            "unsafe": node.simulated,
            "compiled_modules": node.compiled_modules,
        }

    def _metrics(self, _: Context) -> Result:
        return self._node.metrics()

    def _ready_app(self, context: Context) -> Result:
        service = _record(context, tables.SERVICE_INFO, tables.SINGLETON)
        if self._node.state == "PartOfNetwork" and service["status"] == tables.OPEN and not self._node.retired:
            return Response(204)
        return Response(503)

    def _ready_gov(self, _: Context) -> Result:
        return Response(204 if self._node.state == "PartOfNetwork" and not self._node.retired else 503)


def attestation_object(node_id: str, raw: str, measurement: str, simulated: bool) -> dict[str, Any]:
    """One attestation in CCF's shape; `raw` is base64. `simulated` is ours: the root is not the vendor's."""
    return {
        "node_id": node_id,
        "format": NITRO,
        "raw": raw,
        "endorsements": "",
        "measurement": measurement,
        "simulated": simulated,
    }


def address_of(context: Context, node_id: NodeId) -> str:
    """Published address of a node's clients' interface.

    Raises: RequestError: 404, the node is not known.
    """
    record = context.governance(tables.NODE_INFO).get(node_id.encode())
    if record is None:
        raise RequestError(404, "ResourceNotFound", f"Node {node_id} is not known.")
    interfaces: dict[str, Any] = tables.decode(record)["rpc_interfaces"]
    address: str = next(iter(interfaces.values()))["published_address"]
    return address


def _record(context: Context, name: str, key: bytes) -> dict[str, Any]:
    value = context.governance(name).get(key)
    if value is None:
        raise RequestError(
            503, "ServiceNotReady", "This node has not caught up with the ledger's first entry yet; ask again.", (("retry-after", "1"),)
        )
    record: dict[str, Any] = tables.decode(value)
    return record


def _transaction_id(context: Context) -> TransactionId:
    text = context.query.get("transaction_id")
    if text is None:
        raise RequestError(400, "InvalidQueryParameterValue", "Query parameter 'transaction_id' is missing; give VIEW.SEQNO, such as 2.18.")
    try:
        return parse_entry_id(text)
    except FormatError as error:
        raise RequestError(400, "InvalidQueryParameterValue", f"The value of 'transaction_id' is not one: {error}.") from None


def _view(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise RequestError(400, "InvalidQueryParameterValue", "The value of 'view_history_since' is not a view, a number from 1 on.")
    return int(text)
