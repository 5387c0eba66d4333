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
SECONDS = (20, 80, 320)  # of each frontend; more where the machine is too slow to try enough within less
GENERATED_MIN = 100
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


def tried_enough(report: str) -> bool:
    """Whether every operation was tried, and so many inputs."""
    selected = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", report)
    generated = re.search(r"(\d+) generated", report)
    return selected is not None and len(set(selected.groups())) == 1 and generated is not None and int(generated[1]) > GENERATED_MIN


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
    command += ["--seed", str(SEED), "--no-shrink", "--no-color"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(SUPPORT)}
    for seconds in SECONDS:
        whole = [*command, "--max-time", str(seconds)]
        ran = subprocess.run(whole, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
        if tried_enough(ran.stdout):
            break
    assert tried_enough(ran.stdout), ran.stdout
    assert "failed: " not in node.log(), "no handler failed"
