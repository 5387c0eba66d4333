"""What boots in a fake image: the enclave's real runtime, with a UNIX socket for its vsock and a simulator for its device.

`unix_enclave.py LINK ROOT PCR0 PCR1 PCR2 MODULE`: LINK is where the host listens; ROOT the folder of the simulated root.
"""

import socket
import sys
import threading
from pathlib import Path

from ledgerd.enclave.runtime.main import main
from ledgerd.node.lifecycle import simulated_root
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.server import serve

if __name__ == "__main__":
    link, root, pcr0, pcr1, pcr2, app = sys.argv[1:]
    own, module = socket.socketpair()
    nsm = SimulatedNsm(simulated_root(Path(root)), dict(enumerate(map(bytes.fromhex, (pcr0, pcr1, pcr2)))))
    threading.Thread(target=serve, args=(nsm, own), daemon=True).start()
    host = socket.socket(socket.AF_UNIX)
    host.connect(link)
    print("booted", flush=True)
    sys.exit(main(["--link", str(host.detach()), "--nsm", str(module.detach()), "--app", app]))
