"""One node on a fake instance, as a process: `nitro_node.py FOLDER CONFIG`; its notices go to standard output, one a line."""

import os
import sys
from pathlib import Path

from ledgerd.node.config import load
from ledgerd.node.lifecycle import run_node
from ledgerd.node.nitro.launcher import NitroLauncher
from support.nitro import Instance

if __name__ == "__main__":
    instance = Instance.at(Path(sys.argv[1]))
    config = load(Path(sys.argv[2]))
    assert config.nitro is not None

    def notice(name: str, text: str) -> None:
        if "\n" not in text.strip():
            os.write(1, f"{name} {text}\n".encode())

    launcher = NitroLauncher(config.nitro, config.directory, debug=config.debug, machine=instance.machine, listen=instance.listen)
    sys.exit(run_node(config, launcher=launcher, notice=notice))
