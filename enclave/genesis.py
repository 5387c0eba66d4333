"""The first entry of a service: who its members and users are, what may join, and the node that starts it.

Everything an auditor must know to judge what follows is public in it.
"""

import hashlib
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.configuration import Configuration, Party, StartConfiguration
from ledgerd.enclave.governing.sharing import encryption_key
from ledgerd.enclave.keys import ServiceKeys, parse_certificate
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.ledger.ids import NodeId

SERVICE_CONFIGURATION = {
    "recovery_threshold": 1,
    "maximum_node_certificate_validity_days": 365,
    "maximum_service_certificate_validity_days": 365,
    "recent_cose_proposals_window_size": 100,
}


def node_record(
    configuration_rpc: str,
    configuration_peer: str,
    *,
    status: str,
    public_key_pem: str,
    encryption_key_pem: str,
    request_pem: str,
    code_digest: bytes,
    quote_info: dict[str, str],
    node_data: Any,
    program: str,
) -> dict[str, Any]:
    """One record of `nodes.info`, in CCF's shape; see `join_policy.record_of` for `quote_info`."""
    rpc_interface = {"bind_address": configuration_rpc, "published_address": configuration_rpc, "protocol": "tcp"}
    record: dict[str, Any] = {
        "status": status,
        "retired_committed": False,
        "node_to_node_interface": {"bind_address": configuration_peer, "published_address": configuration_peer},
        "rpc_interfaces": {"primary_rpc_interface": rpc_interface},
        "public_key": public_key_pem,
        "encryption_pub_key": encryption_key_pem,
        "certificate_signing_request": request_pem,
        "code_digest": code_digest.hex(),
        "quote_info": quote_info,
        "ledger_secret_seqno": 1,
        "program": program,
    }
    if node_data is not None:
        record["node_data"] = node_data
    return record


def genesis_writes(
    configuration: Configuration,
    start: StartConfiguration,
    service: ServiceKeys,
    node_id: NodeId,
    node: dict[str, Any],
    node_certificate: x509.Certificate,
    own_measurement: tuple[bytes, bytes, bytes],
) -> WriteSet:
    """The write set of entry 2.1.

    Args:
        node: The starting node's record, Trusted.
        own_measurement: PCR0, PCR1, PCR2 of the enclave that starts the service; allowed if the configuration lists none.
    Raises: ConfigurationError: A member's or user's certificate does not parse, or is there twice.
    """
    encode = tables.encode
    measurements = start.measurements or (own_measurement,)
    writes: WriteSet = {
        tables.NODE_INFO: {node_id.encode(): encode(node)},
        tables.NODE_ENDORSED_CERTIFICATES: {node_id.encode(): node_certificate.public_bytes(Encoding.PEM)},
        tables.NITRO_MEASUREMENTS: {tables.measurement_key(*registers): tables.ALLOWED_TO_JOIN for registers in measurements},
        tables.NITRO_ROOTS: {_fingerprint(root, "roots").encode(): root.encode() for root in configuration.roots},
        tables.SERVICE_INFO: {
            tables.SINGLETON: encode(
                {
                    "cert": service.certificate_pem,
                    "status": tables.OPENING,
                    "current_service_create_txid": "2.1",
                    "recovery_count": 0,
                }
            )
        },
        tables.SERVICE_CONFIG: {tables.SINGLETON: encode(SERVICE_CONFIGURATION)},
        tables.CONSTITUTION: {tables.SINGLETON: encode(start.constitution)},
        tables.CONFIGURATION: {tables.SINGLETON: encode(configuration.relevant(service.public))},
        tables.SETTINGS: {
            tables.SINGLETON: encode(
                {
                    "admission": start.admission,
                    "open_at_nodes": start.open_at_nodes,
                    "application_policy": start.application_policy,
                    **({} if configuration.public_name is None else {"public_name": configuration.public_name.relevant()}),
                }
            )
        },
    }
    # With automatic admission nobody is asked anything, so nobody has to say first that he agrees.
    status = tables.ACTIVE if start.admission == "automatic" else tables.ACCEPTED
    member_info = partial(_member_info, status)
    _add_parties(writes, "members", start.members, tables.MEMBER_CERTS, tables.MEMBER_INFO, member_info)
    _add_parties(writes, "users", start.users, tables.USER_CERTS, tables.USER_INFO, _user_info)
    for member in start.members:
        if member.encryption_key is not None:
            try:
                encryption_key(member.encryption_key)
            except FormatError as error:
                raise ConfigurationError(f"start.members: {error}; make one with `openssl genrsa` and `openssl rsa -pubout`") from None
            keys = writes.setdefault(tables.MEMBER_ENCRYPTION_KEYS, {})
            keys[_fingerprint(member.certificate, "members").encode()] = member.encryption_key.encode()
    return writes


def _member_info(status: str, party: Party) -> dict[str, Any]:
    return {"status": status, **({} if party.data is None else {"member_data": party.data})}


def _user_info(party: Party) -> dict[str, Any] | None:
    return None if party.data is None else {"user_data": party.data}


def _add_parties(writes: WriteSet, what: str, parties: tuple[Party, ...], certificates: str, infos: str, info_of: Any) -> None:
    for party in parties:
        party_id = _fingerprint(party.certificate, what).encode()
        if party_id in writes.setdefault(certificates, {}):
            raise ConfigurationError(f"start.{what} lists the certificate {party_id.decode()[:16]}... twice; remove one")
        writes[certificates][party_id] = party.certificate.encode()
        info = info_of(party)  # who has nothing said of him has none, as in CCF
        if info is not None:
            writes.setdefault(infos, {})[party_id] = tables.encode(info)


def _fingerprint(pem: str, what: str) -> str:
    try:
        return hashlib.sha256(parse_certificate(pem).public_bytes(Encoding.DER)).hexdigest()
    except FormatError:
        raise ConfigurationError(f"{what}: an entry is not a PEM certificate; make one with `openssl req -x509`") from None
