"""A public name on real nodes: their enclaves reach a simulated KMS over HTTPS through their hosts, seal, open and serve."""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from ledgerd.node.kms_policy import key_policy
from ledgerd.node.lifecycle import simulated_root
from ledgerd.node.measure import measure
from ledgerd.node.simulator.kms import SimulatedKms
from ledgerd.node.simulator.kms_server import KmsServer, make_identity
from support.kms import CALLER, NAME, ROLE, SERVER_NAME, certify
from support.processes import APP, Node, Service, wait_for


def shown(node: Node, name: str) -> x509.Certificate:
    """The certificate that a browser gets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(node.rpc, 60) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


@pytest.mark.slow
def test_what_one_node_sealed_another_of_the_same_image_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = simulated_root(tmp_path / "simulator")
    measured = measure(APP)
    kms = SimulatedKms([root.certificate_pem], [CALLER])
    arn = kms.create_key(key_policy([{0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2}], [ROLE]))
    identity = make_identity(SERVER_NAME)
    (tmp_path / "kms_root.pem").write_text(identity.root_pem)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CALLER.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CALLER.secret_access_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", CALLER.session_token or "")
    with KmsServer(kms, identity) as server:

        def section(number: int) -> str:
            return (
                f'[public_name]\nname = "{NAME}"\nkey = "{arn}"\nfolder = "name{number}"\nroots = ["kms_root.pem"]\n'
                f'endpoint = "{server.host}:{server.port}"\n'
            )

        with Service(tmp_path, 1, more=section) as service:
            first = tmp_path / "name0"
            wait_for((first / "request.pem").exists, "the first node asks for a certificate")
            requested = x509.load_pem_x509_csr((first / "request.pem").read_bytes()).public_key()
            assert isinstance(requested, EllipticCurvePublicKey)
            second = tmp_path / "name1"
            second.mkdir()
            (second / "sealed").write_text((first / "sealed").read_text())
            (second / "chain.pem").write_text(certify(requested, begins=datetime.now(UTC)))
            node = service.add()
            wait_for(lambda: shown(node, NAME).public_key() == requested, "the second node serves the name")
            other = shown(node, "localhost")
            other.verify_directly_issued_by(x509.load_pem_x509_certificate(service.certificate.read_bytes()))
            for line in (service.nodes[0].log(), node.log()):
                assert CALLER.secret_access_key not in line
    assert [reason for reason in kms.reasons if "allowed" in reason] == [
        "GenerateDataKey: allowed by statement AllowImage1",
        "Decrypt: allowed by statement AllowImage1",
    ]
