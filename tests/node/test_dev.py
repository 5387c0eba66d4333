"""`ledgerd dev`: what is refused before anything starts, and that nothing is left, whatever ends it. Nodes are real."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node import config
from ledgerd.node.dev import run_dev
from ledgerd.node.dev_folder import DevOptions

LEDGERD = [sys.executable, "-m", "ledgerd.node.cli.main"]
OPTIONS = DevOptions(nodes=1, directory=None, port=0, app="ledgerd.apps.logging", anybody=False, command=None)


def refused(**changes: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        run_dev(OPTIONS._replace(**changes), lambda service: None, lambda text: None)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_port_in_use_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused(port=port, directory=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_used_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    assert "was used before" in refused(directory=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert "cannot use" in refused(directory=tmp_path / "mine" / "below")


def test_an_application_that_is_not_there_is_refused() -> None:
    assert "nonsense" in refused(app="nonsense")


def test_ports_beyond_the_last_are_refused() -> None:
    assert "65536" in refused(port=65535, nodes=2)


def test_virtual_machines_without_qemu_are_refused_before_an_image_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ConfigurationError) as caught:
        run_dev(OPTIONS._replace(launcher="vm", directory=tmp_path / "new"), lambda service: None, lambda text: None)
    assert str(caught.value).splitlines()[1].startswith("qemu: qemu-system-x86_64 is not here; apt-get install qemu-system-x86")
    assert list(tmp_path.iterdir()) == []


def processes_of(folder: Path) -> list[int]:
    """Processes that mention the folder on their command line, or whose parent does."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, [pid for pid in pids if is_alive(pid)]
        time.sleep(0.02)


def pids_of(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("node*/*.pid")]


def test_a_command_finds_an_open_service_and_its_status_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    asks = 'test "$LEDGERD_URL" = "$LEDGERD_URLS" && ledgerd status -o json > "$0/status"'
    script = f'cp "$LEDGERD_DIR"/node0/*.pid "$0"; {asks}; sleep 60 & exit 7'
    command = f"sh -c '{script}' {tmp_path}"
    done = subprocess.run(
        [*LEDGERD, "dev", "--nodes", "1", "--port", "0", "--dir", folder, "--exec", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "SIMULATED" in done.stderr
    assert json.loads((tmp_path / "status").read_text())["service_status"] == "Open"
    wait_until_gone([int(path.read_text()) for path in tmp_path.glob("*.pid")])
    assert processes_of(folder) == []
    assert sorted(path.name for path in (folder / "common").iterdir() if "user" in path.name or "member" in path.name) == [
        "member0_cert.pem",
        "member0_privk.pem",
        "user0_cert.pem",
        "user0_privk.pem",
        "user1_cert.pem",
        "user1_privk.pem",
    ]
    assert not list(folder.glob("node*/*.pid"))
    assert config.load(folder / "node0" / "node.toml").start is not None


def test_a_sealed_key_can_be_tried_and_its_kms_ends_with_it(tmp_path: Path) -> None:
    """What `dev` prints is what is typed here: another node opens what the first one sealed, and curl sees it serve the name."""
    folder = tmp_path / "dev"
    script = tmp_path / "script"
    script.write_text(
        f". {folder}/kms/credentials; ledgerd node join --config {folder}/next/node.toml 2> {tmp_path}/joined &\n"
        "for _ in $(seq 1200); do sleep 0.1\n"
        f"grep -q 'serves the public name' {folder}/next/node.log 2> /dev/null && break; done\n"
        "for _ in $(seq 600); do\n"
        f'curl -sS --cacert {folder}/kms/authority_cert.pem --connect-to "ledger.example.org:443:$(cat {folder}/next/rpc_address)" '
        f"https://ledger.example.org/node/state > {tmp_path}/state\n"
        f"grep -q Pending {tmp_path}/state || break; sleep 0.1; done\n"
        f"cp {folder}/next/*.pid {tmp_path}; sleep 0.5\n"
    )
    name = ["--public-name", "ledger.example.org"]
    options: list[str | Path] = ["--nodes", "1", "--port", "0", "--dir", folder, *name, "--exec", f"sh {script}"]
    done = subprocess.run([*LEDGERD, "dev", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "state").read_text())["state"] == "PartOfNetwork"
    assert (folder / "kms" / "decisions.log").read_text().splitlines() == [
        "GenerateDataKey: allowed by statement AllowImage1",
        "Decrypt: allowed by statement AllowImage1",
    ]
    wait_until_gone([int(path.read_text()) for path in tmp_path.glob("*.pid")])
    assert processes_of(folder) == []


def test_a_public_name_that_is_none_is_misuse(tmp_path: Path) -> None:
    for name in ("ledger", "Ledger.example.org", "a b.example.org", '"x.example.org'):
        with pytest.raises(ConfigurationError, match="give a DNS name"):
            run_dev(OPTIONS._replace(directory=tmp_path / "new", public_name=name), lambda service: None, lambda text: None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "dev"
    process = subprocess.Popen(
        [*LEDGERD, "dev", "--nodes", "2", "--port", "0", "--dir", folder, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "}\n":
        line = process.stdout.readline()
        assert line, process.communicate()
        lines.append(line)
    service = json.loads("".join(lines))
    assert service["simulated"]
    assert len(service["urls"]) == 2
    pids = pids_of(folder)
    assert len(pids) == 4
    assert all(is_alive(pid) for pid in pids)
    process.send_signal(number)
    process.communicate(timeout=600)
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    wait_until_gone(pids)
    assert processes_of(folder) == []


def test_a_service_that_does_not_come_up_says_which_node_and_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken_application.py"
    broken.write_text("app = None\nraise RuntimeError('broken on purpose')\n")
    command = [*LEDGERD, "dev", "--nodes", "1", "--port", "0", "--dir", str(tmp_path / "dev"), "--app", "broken_application"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "node0" in done.stderr
    assert "RuntimeError" in done.stderr
    assert f"{broken}:2" in done.stderr
    assert f"Everything is kept in {tmp_path / 'dev'}" in done.stderr
    assert "rpc_address" not in done.stderr, "what went well is not what people look for"
    assert done.stdout == ""
    assert processes_of(tmp_path / "dev") == []


NOTES = """
from ledgerd.enclave.app import App, Context

app = App("notes")


@app.get("/hello/{name}")
def hello(ctx: Context, name: str) -> str:
    return f"hello {name}"
"""


def test_an_application_in_the_working_directory_is_run(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(NOTES)
    command = [*LEDGERD, "dev", "--nodes", "1", "--port", "0", "--app", "notes", "--exec", "ledgerd tx submit GET /app/hello/you -o json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["body"] == "hello you"


READS = {"authn_policies": ["no_auth"], "mode": "readonly", "forwarding_required": "sometimes"}


def test_an_application_in_javascript_is_installed_and_serves_and_what_it_throws_is_told(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    module = "export const hello = (request) => ({ body: `hello ${request.params.who}` });\nexport const wrong = () => notThere.x;\n"
    (tmp_path / "src" / "hello.js").write_text(module)
    hello, wrong = ({"js_module": "hello.js", "js_function": name, **READS} for name in ("hello", "wrong"))
    (tmp_path / "app.json").write_text(json.dumps({"endpoints": {"/hello/{who}": {"get": hello}, "/wrong": {"get": wrong}}}))
    command = [*LEDGERD, "dev", "--nodes", "1", "--port", "0", "--js-app-bundle", str(tmp_path)]
    logged = "grep /hello.js:2 $LEDGERD_DIR/node0/node.log >&2"
    use = f"ledgerd tx submit GET /app/hello/you -o json && ! ledgerd tx submit GET /app/wrong && {logged}"
    done = subprocess.run([*command, "--exec", use], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["body"] == "hello you"
    assert "ledgerd: 500 InternalError: Exception thrown while executing.; ReferenceError: notThere is not defined" in done.stderr


@pytest.mark.parametrize("endpoints", [{}, {"/x": {"get": {"js_module": "gone.js", "js_function": "x", **READS}}}])
def test_an_application_that_is_none_is_told(tmp_path: Path, endpoints: dict[str, object]) -> None:
    (tmp_path / "src").mkdir()
    if endpoints:
        (tmp_path / "app.json").write_text(json.dumps({"endpoints": endpoints}))
    command = [*LEDGERD, "dev", "--nodes", "1", "--port", "0", "--js-app-bundle", str(tmp_path), "--exec", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if endpoints:  # only the service can tell
        assert done.returncode == 1
        assert "the application was not installed" in done.stderr
        assert "gone.js" in done.stderr
    else:
        assert done.returncode == 2
        assert "app.json" in done.stderr
