"""Modules as their sources say, also where they are compiled: for worlds with stand-ins that compiled code would not take.

Compiled code takes a `Sessions` for a `Sessions` only if it is one. Stand-ins need the interpreted module, which runs beside the compiled
one and shares all others with it.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from ledgerd import enclave
from ledgerd.enclave import answering, serving


def interpreted(module: ModuleType) -> Any:
    """The module itself, or what its source makes if it is compiled."""
    assert module.__file__ is not None, "it came from a file"
    if module.__file__.endswith(".py"):
        return module
    spec = spec_from_file_location(module.__name__, Path(enclave.__path__[0], module.__name__.rpartition(".")[2] + ".py"))
    assert spec is not None and spec.loader is not None, "a source can be loaded"
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


SERVING: Any = interpreted(serving)
"""`enclave.serving`, and within it `enclave.answering`, which talk to sessions and channels."""
if SERVING is not serving:
    SERVING.Answering = interpreted(answering).Answering
