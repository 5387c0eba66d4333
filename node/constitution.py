"""The constitutions that come with the program, as text for a new service's genesis.

Not here: what is in them (`governance.constitution`, docs/governance.md), running them (`enclave.governing.engine`).
"""

from importlib.resources import files

from ledgerd.governance import constitution


def default_constitution(admission: str) -> str:
    """The text for a service whose members bring none.

    Args: admission: `vote`: a proposal takes more than half of the members; `automatic`, for development: one member's word is enough.
    """
    order = constitution.BY_VOTE if admission == "vote" else constitution.SANDBOX
    folder = files("ledgerd.governance.constitution")
    return constitution.join(order, lambda name: folder.joinpath(name).read_text("utf-8"))
