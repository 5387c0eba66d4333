"""A node with a fake enclave, as a process: `python echo_node.py DIRECTORY RPC_PORT`; its notices go to standard output, one a line."""

import os
import sys
from pathlib import Path

from ledgerd.node.config import NodeConfig, StartConfig
from ledgerd.node.launch import ProcessLauncher
from ledgerd.node.lifecycle import run_node
from ledgerd.node.sections import Address

ENCLAVE = (sys.executable, "-I", "-W", "ignore", str(Path(__file__).with_name("echo_enclave.py")))

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = NodeConfig(
        directory=folder / "node0",
        app="ledgerd.ledger",
        rpc=Address("127.0.0.1", int(sys.argv[2])),
        peer=Address("127.0.0.1", 0),
        roots=(),
        simulator=folder / "simulator",
        start=StartConfig(members=()),
    )

    def notice(name: str, text: str) -> None:
        os.write(1, f"{name} {text}\n".encode())

    sys.exit(run_node(config, launcher=ProcessLauncher(ENCLAVE), notice=notice))
