"""An application in JavaScript for a development service: its one member proposes it, and one member's word is enough there.

Not here: folders of applications (`node.cli.gov_bundle`), what applications are (docs/javascript-apps.md).
"""

import json
from pathlib import Path
from typing import Any, Final

from ledgerd.network.client import Client, Member
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.members import proposal
from ledgerd.node.findings import readable

OPTIONS: Final = {
    "max_heap_bytes": 100 << 20,
    "max_stack_bytes": 1 << 20,
    "max_execution_time_ms": 1000,
    "return_exception_details": True,
    "log_exception_details": True,
}
"""The limits that hold where nobody has set any, which the action asks for; and what whoever writes an application needs to see."""


def install(url: str, common: Path, bundle: dict[str, Any]) -> str | None:
    """Install an application by proposal, and have what it throws told to its callers and in the log, as whoever writes one needs it.

    Args:
        url: Of a node.
        common: The folder with the service's certificate and the member's files.
        bundle: `{"metadata": {"endpoints": ...}, "modules": [...]}`.
    Returns: Why it was refused; None when it serves.
    """
    member = Member(common / "member0_cert.pem", common / "member0_privk.pem")
    actions = [
        {"name": "set_js_app", "args": {"bundle": bundle}},
        {"name": "set_js_runtime_options", "args": OPTIONS},
    ]
    text = json.dumps({"actions": actions}).encode()
    call = member.sign(proposal(text))
    try:
        with Client(url, service_certificate=common / "service_cert.pem") as client:
            answer = client.submit(call.method, call.path, call.body, headers=call.headers).json()
    except ClientError as error:
        return readable(str(error))
    return None if answer["proposalState"] == "Accepted" else f"the proposal is {answer['proposalState']}"
