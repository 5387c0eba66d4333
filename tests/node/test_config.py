import json
from pathlib import Path

import pytest

from ledgerd.enclave.configuration import parse as parse_in_enclave
from ledgerd.enclave.jwt.settings import JwtSettings
from ledgerd.enclave.keys import CURVES as CURVES_IN_ENCLAVE
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1_PEM
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.config import CURVES, Measurement, NitroConfig, VmConfig, enclave_document, load
from ledgerd.node.sections import Address, parse_address
from support.cluster import make_identity

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
START = """
[node]
directory = "node0"
app = "ledgerd.apps.logging"
data = {owner = "bank"}
[rpc]
listen = "127.0.0.1:8000"
published = "node0.example:443"
[peer]
listen = "[::1]:0"
[limits]
clients = 500
[consensus]
heartbeat_ms = 50
[attestation]
roots = ["root.pem"]
simulator = "simulator"
[start]
admission = "automatic"
open_at_nodes = 3
[[start.members]]
certificate = "member0.pem"
encryption_key = "member0.pem"
data = {name = "first"}
[[start.users]]
certificate = "member0.pem"
"""
JOIN = """
[node]
directory = "node1"
app = "ledgerd.apps.logging"
[rpc]
listen = "127.0.0.1:8001"
[peer]
listen = "127.0.0.1:0"
[attestation]
roots = ["root.pem"]
simulator = "simulator"
[join]
target = "127.0.0.1:8000"
service_certificate = "member0.pem"
"""


def write(tmp_path: Path, text: str) -> Path:
    for name in ("root.pem", "member0.pem"):
        (tmp_path / name).write_text(PEM)
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_document_that_the_enclave_reads(tmp_path: Path) -> None:
    config = load(write(tmp_path, START))
    assert config.directory == tmp_path / "node0"
    assert config.peer == Address("::1", 0)
    document = enclave_document(
        config,
        rpc=Address("127.0.0.1", 8000),
        peer=Address("::1", 4711),
        isolation=["no-new-privileges"],
        roots=config.roots,
        own_measurement=Measurement("ab" * 48, "cd" * 48, "ef" * 48),
    )
    read = parse_in_enclave(document)
    assert (read.rpc.host, read.rpc.port) == ("node0.example", 443)
    assert (read.peer.host, read.peer.port) == ("::1", 4711)
    assert read.isolation == ("no-new-privileges",)
    assert read.sessions_max == 500
    assert read.heartbeat_seconds == 0.05
    assert read.roots == (PEM,)
    assert read.node_data == {"owner": "bank"}
    assert read.start is not None
    assert read.start.open_at_nodes == 3
    assert read.start.members[0].data == {"name": "first"}
    assert read.start.members[0].encryption_key == PEM
    assert read.start.measurements == ((b"\xab" * 48, b"\xcd" * 48, b"\xef" * 48),)
    assert json.loads(document)["consortium"]["simulated"] is True


def test_a_joining_nodes_document_is_read_too(tmp_path: Path) -> None:
    path = write(tmp_path, JOIN)
    certificate = make_identity("service").pem
    (tmp_path / "member0.pem").write_text(certificate)
    config = load(path)
    read = parse_in_enclave(
        enclave_document(
            config, rpc=Address("127.0.0.1", 8001), peer=Address("127.0.0.1", 9001), isolation=[], roots=config.roots, own_measurement=None
        )
    )
    assert read.join is not None
    assert (read.join.target.host, read.join.target.port) == ("127.0.0.1", 8000)
    assert read.join.service_certificate == certificate
    assert read.curve == "secp256r1"


@pytest.mark.parametrize(("line", "curve"), [("", "secp256r1"), *((f'curve = "{curve}"', curve) for curve in CURVES)])
def test_a_new_service_has_one_of_the_curves_that_the_enclave_knows(tmp_path: Path, line: str, curve: str) -> None:
    config = load(write(tmp_path, START.replace("[start]", f"[start]\n{line}")))
    read = parse_in_enclave(
        enclave_document(config, rpc=Address("a", 1), peer=Address("a", 2), isolation=[], roots=config.roots, own_measurement=None)
    )
    assert read.curve == curve
    assert set(CURVES) == set(CURVES_IN_ENCLAVE)


def test_the_enclave_is_told_which_issuers_servers_it_may_be_connected_to_and_how_often(tmp_path: Path) -> None:
    section = '[jwt]\nhosts = ["Issuer.example", "[::1]:8443", "other.example:443"]\nkey_refresh_interval_s = 60\n'
    for text, expected in (
        (START, JwtSettings(1800, frozenset())),
        (START + section, JwtSettings(60, frozenset({"issuer.example", "[::1]:8443", "other.example"}))),
    ):
        config = load(write(tmp_path, text))
        document = enclave_document(
            config, rpc=Address("a", 1), peer=Address("a", 2), isolation=[], roots=config.roots, own_measurement=None
        )
        assert parse_in_enclave(document).jwt == expected


def test_an_issuers_server_is_named_without_scheme_and_path(tmp_path: Path) -> None:
    for name in ("https://issuer.example", "issuer.example/v2", "issuer.example:0", "", "a b"):
        with pytest.raises(ConfigurationError, match=r'jwt\.hosts: .* is no server; give "host" or "host:port", without https://'):
            load(write(tmp_path, START + f'[jwt]\nhosts = ["{name}"]\n'))
    with pytest.raises(ConfigurationError, match=r"jwt\.key_refresh_interval_s: 0 is out of bounds"):
        load(write(tmp_path, START + "[jwt]\nkey_refresh_interval_s = 0\n"))


def test_a_service_has_the_name_that_its_first_node_gives_it(tmp_path: Path) -> None:
    for line, name in (("", "CN=ledgerd Service"), ('service_subject = "CN=Four Banks,O=Example"', "CN=Four Banks,O=Example")):
        config = load(write(tmp_path, START.replace("[start]", f"[start]\n{line}")))
        document = enclave_document(
            config, rpc=Address("a", 1), peer=Address("a", 2), isolation=[], roots=config.roots, own_measurement=None
        )
        start = parse_in_enclave(document).start
        assert start is not None
        assert start.service_subject.rfc4514_string() == name
    with pytest.raises(ConfigurationError, match=r"start\.service_subject: 'Four Banks' is no name; give one like"):
        load(write(tmp_path, START.replace("[start]", '[start]\nservice_subject = "Four Banks"')))


def test_another_curve_and_a_joiners_curve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"start\.curve: 'P-256' is none of secp256r1, secp384r1"):
        load(write(tmp_path, START.replace("[start]", '[start]\ncurve = "P-256"')))
    with pytest.raises(ConfigurationError, match=r"join\.curve: unknown"):
        load(write(tmp_path, JOIN + 'curve = "secp384r1"\n'))


def test_all_problems_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    text = """
mode = "start"
[node]
app = 5
direktory = "x"
[rpc]
listen = "127.0.0.1:70000"
[limits]
clients = 0
[consensus]
heartbeat_ms = 900
[attestation]
roots = ["missing.pem"]
[start]
admission = "never"
[[start.members]]
certificate = "not.pem"
[[start.measurements]]
pcr0 = "12"
pcr1 = "12"
"""
    (tmp_path / "not.pem").write_text("hello")
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text))
    assert sorted(line.partition(":")[0] for line in str(caught.value).splitlines()) == sorted(
        [
            "mode",
            "node.app",
            "node.direktory",
            "node.directory",
            "rpc.listen",
            "peer.listen",
            "limits.clients",
            "consensus.election_timeout_ms",
            "attestation.roots",
            "attestation.simulator",
            "start.admission",
            "start.members[0].certificate",
            "start.measurements[0].pcr0",
            "start.measurements[0].pcr1",
            "start.measurements[0].pcr2",
        ]
    )


@pytest.mark.parametrize("extra", ["", '[join]\ntarget = "a:1"\nservice_certificate = "root.pem"\n'])
def test_a_node_either_starts_or_joins(tmp_path: Path, extra: str) -> None:
    text = START.partition("[start]")[0] + extra + ("" if not extra else "[start]\nmembers = []\n")
    with pytest.raises(ConfigurationError, match=r"\[start\]: needed, or \[join\]"):
        load(write(tmp_path, text))


@pytest.mark.parametrize("value", ["1979-05-27", "07:32:00", "[{a = 1979-05-27T07:32:00Z}]"])
def test_data_that_is_no_json_is_refused_with_its_key(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"node\.data: .*write them as strings"):
        load(write(tmp_path, START.replace('{owner = "bank"}', value)))
    with pytest.raises(ConfigurationError, match=r"data: .*write them as strings"):
        load(write(tmp_path, START.replace('{name = "first"}', value)))


def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is not TOML: .*line 1"):
        load(write(tmp_path, "[node\n"))
    with pytest.raises(ConfigurationError, match=r"cannot read .*No such file"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:x", "host:70000", "a:b:1", "[::1]", "host:1 ", "http://host:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match='give "host:port"'):
        parse_address(text)


def test_addresses_are_printed_as_they_are_read() -> None:
    for text in ("host:1", "[::1]:65535", "127.0.0.1:0"):
        assert str(parse_address(text)) == text


NITRO = """
[node]
directory = "node0"
launcher = "nitro"
[nitro]
image = "ledger.eif"
memory_mb = 4096
cpus = 4
[rpc]
listen = "127.0.0.1:8000"
[peer]
listen = "127.0.0.1:0"
[start]
[[start.members]]
certificate = "member0.pem"
"""


def test_an_enclave_on_nitro_has_awss_root_and_its_application_in_the_image(tmp_path: Path) -> None:
    config = load(write(tmp_path, NITRO))
    assert config.nitro == NitroConfig(tmp_path / "ledger.eif", memory_mb=4096, cpus=4)
    assert config.roots == (AWS_ROOT_G1_PEM,)
    assert config.simulator is None
    document = enclave_document(
        config,
        rpc=config.rpc,
        peer=config.rpc,
        isolation=("nitro-enclave",),
        roots=config.roots,
        own_measurement=Measurement("a", "b", "c"),
    )
    assert json.loads(document)["consortium"] == {"roots": [AWS_ROOT_G1_PEM], "simulated": False}


def test_what_an_enclave_on_nitro_brings_along_is_not_configured(tmp_path: Path) -> None:
    text = NITRO.replace("[nitro]", 'app = "x"\nmemory_mb = 512\n[attestation]\nsimulator = "s"\n[nitro]\nname = "a b"\ncid = 3')
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text))
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [
        "attestation.simulator",
        "nitro.cid",
        "nitro.name",
        "node.app",
        "node.memory_mb",
    ]
    assert "node.app: the application is in the image: leave this out" in lines


def test_options_take_the_place_of_the_launcher_and_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = NITRO.replace('launcher = "nitro"', "").replace('image = "ledger.eif"', "")
    monkeypatch.chdir(tmp_path)
    config = load(write(tmp_path, text), launcher="nitro", image=Path("other.eif"))
    assert config.launcher == "nitro"
    assert config.nitro is not None
    assert config.nitro.image == tmp_path / "other.eif"
    with pytest.raises(ConfigurationError, match=r"nitro.image: missing"):
        load(write(tmp_path, text), launcher="nitro")


def test_an_image_for_a_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--image is for virtual machines and enclaves: add --launcher vm"):
        load(write(tmp_path, START), image=Path("other.eif"))


def test_a_process_needs_a_simulated_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"attestation.simulator: missing; a process has no security module"):
        load(write(tmp_path, START.replace('simulator = "simulator"', "")))


VM = NITRO.replace('launcher = "nitro"', 'launcher = "vm"').replace("[nitro]", '[attestation]\nsimulator = "simulator"\n[vm]')


def test_a_virtual_machine_has_a_simulated_root_and_its_application_in_the_image(tmp_path: Path) -> None:
    config = load(write(tmp_path, VM.replace("cpus = 4\n", "")))
    assert config.vm == VmConfig(tmp_path / "ledger.eif", memory_mb=4096)
    assert (config.launcher, config.app, config.roots, config.simulator) == ("vm", "", (), tmp_path / "simulator")


def test_what_a_virtual_machine_lacks_or_brings_along_is_told(tmp_path: Path) -> None:
    text = (
        VM.replace('simulator = "simulator"', "").replace('launcher = "vm"', 'launcher = "vm"\napp = "x"').replace("memory_mb", "memory_gb")
    )
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text))
    problems = dict(line.split(": ", 1) for line in str(caught.value).splitlines())
    assert problems["node.app"] == "the application is in the image: leave this out"
    assert problems["attestation.simulator"].startswith("missing; a virtual machine has no security module")
    assert {"vm.memory_gb", "vm.cpus"} <= set(problems)


def test_an_image_of_the_command_line_goes_to_the_launcher_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(write(tmp_path, VM.replace("cpus = 4\n", "").replace('launcher = "vm"', "")), launcher="vm", image=Path("other.eif"))
    assert config.vm is not None and config.vm.image == tmp_path / "other.eif"
