"""Every endpoint of a running node against its description in OpenAPI, by Schemathesis: inputs that the description allows, and such as it
does not; and of each answer the status, the content type, the headers and the JSON.

That each described refusal is also given: `tests/enclave/governing/test_error_codes.py`.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ccf_oracle import ROOT
from support.processes import Service

PROGRAM = ROOT / ".venv-schemathesis" / "bin" / "schemathesis"
SUPPORT = ROOT / "tests" / "support" / "schemathesis"
SECONDS = 20  # of each frontend
SEED = 20_261_126


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    if not PROGRAM.exists():
        text = f"{PROGRAM} is not there: run scripts/oracles"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    with Service(tmp_path_factory.mktemp("openapi"), nodes=1) as service:
        yield service


@pytest.mark.parametrize(("frontend", "caller"), [("app", "user0"), ("gov", "member0"), ("node", "user0")])
def test_a_node_answers_as_its_description_says(service: Service, tmp_path: Path, frontend: str, caller: str) -> None:
    (node,) = service.nodes
    command = [str(PROGRAM), "--config-file", str(SUPPORT / "schemathesis.toml"), "run", f"{node.url}/{frontend}/api"]
    command += ["--tls-verify", str(service.certificate), "--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
    command += [
        "--request-cert",
        str(service.folder / f"{caller}_cert.pem"),
        "--request-cert-key",
        str(service.folder / f"{caller}_privk.pem"),
    ]
    command += ["--seed", str(SEED), "--max-time", str(SECONDS), "--no-shrink", "--no-color"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(SUPPORT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
    selected = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", ran.stdout)
    assert selected is not None, ran.stdout
    assert len(set(selected.groups())) == 1, "every operation was tried"
    generated = re.search(r"(\d+) generated", ran.stdout)
    assert generated is not None and int(generated[1]) > 100
    assert "failed: " not in node.log(), "no handler failed"
