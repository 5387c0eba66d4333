"""An application in JavaScript for a development service: its one member proposes it, and one member's word is enough there.

Not here: folders of applications (`node.cli.gov_bundle`), what applications are (docs/javascript-apps.md).
"""

import json
from pathlib import Path
from typing import Any

from ledgerd.network.client import Client, Member
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.members import proposal


def install(url: str, common: Path, bundle: dict[str, Any]) -> str | None:
    """Install an application by proposal.

    Args:
        url: Of a node.
        common: The folder with the service's certificate and the member's files.
        bundle: `{"metadata": {"endpoints": ...}, "modules": [...]}`.
    Returns: Why it was refused; None when it serves.
    """
    member = Member(common / "member0_cert.pem", common / "member0_privk.pem")
    text = json.dumps({"actions": [{"name": "set_js_app", "args": {"bundle": bundle}}]}).encode()
    call = member.sign(proposal(text))
    try:
        with Client(url, service_certificate=common / "service_cert.pem") as client:
            answer = client.submit(call.method, call.path, call.body, headers=call.headers).json()
    except ClientError as error:
        return str(error)
    return None if answer["proposalState"] == "Accepted" else f"the proposal is {answer['proposalState']}"
