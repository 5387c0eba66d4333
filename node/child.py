"""A child that does not outlive this process, whatever ends it.

Not here: the sandbox of the process launcher, which sets the same among other things and reports what fails (`node.launch`).
"""

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def dies_with_us(by: signal.Signals) -> Callable[[], None]:
    """What `subprocess.Popen` has to run in the child (`preexec_fn`) so that the kernel sends it a signal when this process ends.

    Call it from the thread that starts the child and lives as long as this process: the signal comes when that thread ends.
    """
    us = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: the child must not load anything

    def run() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
        if os.getppid() != us:  # we died before the line above
            os._exit(1)

    return run
