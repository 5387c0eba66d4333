"""`python -m ledgerd.enclave.runtime`: see `enclave.runtime.main`."""

import sys

from ledgerd.enclave.runtime.main import main

sys.exit(main(sys.argv[1:]))
