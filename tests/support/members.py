"""What members do in tests: sign proposals and send them, in a `support.cluster.Cluster`."""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledgerd.enclave.outbound import Answer
from ledgerd.governance import actions, requests
from ledgerd.governance.actions import REMOVE_NODE, TRUST_NODE, Action
from ledgerd.ledger.ids import NodeId
from support.cluster import Cluster, Host, Identity

CREATE = "/gov/members/proposals:create?api-version=2024-07-01"
SIGNED_AT = 1_780_000_000


def files(identity: Identity, folder: Path) -> list[object]:
    """A member's files, as options of the command line."""
    certificate, key = folder / "member_cert.pem", folder / "member_privk.pem"
    certificate.write_text(identity.pem)
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ["--member-cert", certificate, "--member-key", key]


def envelope(identity: Identity, *wanted: Action, created_at: int = SIGNED_AT, kind: str = requests.PROPOSAL) -> bytes:
    """A proposal, signed."""
    return requests.sign(identity.key, identity.certificate, kind, actions.write(wanted), created_at=created_at)


def send(cluster: Cluster, host: Host, body: bytes, path: str = CREATE, **headers: str) -> Answer:
    """Send a signed request to a node and wait for the answer."""
    client = cluster.client(host)
    return client.ask("POST", path, body, **{"content_type": requests.CONTENT_TYPE, **headers})


def propose(cluster: Cluster, host: Host, *wanted: tuple[str, Any]) -> Answer:
    """Propose actions of the constitution, by name and arguments, a second after the proposal before."""
    payload = json.dumps({"actions": [{"name": name, "args": args} for name, args in wanted]}).encode()
    created_at = SIGNED_AT + len(cluster.proposed)
    cluster.proposed.append(payload)
    who = cluster.member
    return send(cluster, host, requests.sign(who.key, who.certificate, requests.PROPOSAL, payload, created_at=created_at))


def retire(cluster: Cluster, host: Host, *nodes: Host | str, created_at: int = SIGNED_AT) -> Answer:
    """Propose, at `host`, that these nodes leave."""
    wanted = [Action(REMOVE_NODE, node if isinstance(node, str) else node_id(node)) for node in nodes]
    return send(cluster, host, envelope(cluster.member, *wanted, created_at=created_at))


def trust(cluster: Cluster, host: Host, node: str) -> Answer:
    """Propose, at `host`, that this node is trusted."""
    return send(cluster, host, envelope(cluster.member, Action(TRUST_NODE, node)))


def node_id(host: Host) -> NodeId:
    """Name of a node."""
    return NodeId(host.notices["node_id"])
