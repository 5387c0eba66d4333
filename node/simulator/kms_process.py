"""A simulated KMS as a process of its own, for `ledgerd dev`: `python -m ledgerd.node.simulator.kms_process FOLDER`.

FOLDER has `policy.json`, of the one key that is made, and `attestation_root.pem`, below which documents count. Written there are
`root_cert.pem`, the authority of the server's certificate; `decisions.log`, why each request was decided as it was; and last, when all is
ready, `ready.json`. The key lives in memory: what is sealed under it opens for as long as this process lives.
"""

import json
import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from ledgerd.node.simulator.kms import Caller, SimulatedKms
from ledgerd.node.simulator.kms_server import KmsServer, make_identity

ROLE: Final = "arn:aws:iam::111122223333:role/ledgerd-dev"  # whose credentials are made here
POLICY: Final = "policy.json"
ATTESTATION_ROOT: Final = "attestation_root.pem"
SERVER_ROOT: Final = "root_cert.pem"
READY: Final = "ready.json"
DECISIONS: Final = "decisions.log"
LOOK_SECONDS: Final = 0.2


def main(arguments: list[str]) -> int:
    """Serve until told to stop."""
    folder = Path(arguments[0])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    caller = Caller(f"ASIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30), None, ROLE)
    kms = SimulatedKms([(folder / ATTESTATION_ROOT).read_text()], [caller])
    key = kms.create_key((folder / POLICY).read_text())
    identity = make_identity(f"kms.{kms.region}.amazonaws.com")
    (folder / SERVER_ROOT).write_text(identity.root_pem)
    with KmsServer(kms, identity) as server, (folder / DECISIONS).open("a") as decisions:
        ready = {
            "key": key,
            "endpoint": f"{server.host}:{server.port}",
            "access_key_id": caller.access_key_id,
            "secret_access_key": caller.secret_access_key,
        }
        temporary = folder / f".{READY}.new"
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(ready))
        temporary.replace(folder / READY)
        written = 0
        while not stop.wait(LOOK_SECONDS) or written < len(kms.reasons):
            for reason in kms.reasons[written:]:
                decisions.write(f"{reason}\n")
                written += 1
            decisions.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
