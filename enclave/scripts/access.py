"""Which maps a script may read and write, by what it is run for: CCF's rule, and one line of ours.

A name's prefix says whose a map is: `public:ccf.gov.` governance's, `public:ccf.internal.` the service's, everything else the
application's; without `public:` it is sealed in the ledger. Governance acts on what auditors can read, so it never sees a sealed map;
applications never write governance's. Ours: `ledgerd.` names belong to the service too.
Source: CCF documentation, audit, "Read-write restrictions".
"""

from enum import Enum
from functools import lru_cache
from typing import Final

NAME_LENGTH_MAX: Final = 256

_REMEMBERED_MAX: Final = 1_024  # names with their rights; each is asked for at every operation on a map
READ: Final = 1
WRITE: Final = 2

_PUBLIC: Final = "public:"
_GOVERNANCE: Final = "ccf.gov."
_SERVICE: Final = ("ccf.", "ledgerd.")


class Access(Enum):
    """What a script is run for; the value is how errors name it."""

    APP_RW = "application"
    APP_RO = "read-only application"
    GOV_RO = "read-only governance"  # validate, resolve, vote
    GOV_RW = "read-write governance"  # apply


_APPLICATION: Final = {
    Access.APP_RW: READ | WRITE,
    Access.APP_RO: READ,
    Access.GOV_RO: READ,
    Access.GOV_RW: WRITE,  # what members decide must not depend on what users have written
}


def rights(access: Access, name: str) -> int:
    """`READ`, `WRITE`, both or neither of the map `name`; 0 for what is no name."""
    return _rights(access, name) if 0 < len(name) <= NAME_LENGTH_MAX else 0


@lru_cache(maxsize=_REMEMBERED_MAX)
def _rights(access: Access, name: str) -> int:
    plain = name.removeprefix(_PUBLIC)
    if not plain.startswith(_SERVICE):
        if plain is not name:
            return _APPLICATION[access]
        return _APPLICATION[access] if access in (Access.APP_RW, Access.APP_RO) else 0
    if plain is name:
        return 0
    return READ | WRITE if plain.startswith(_GOVERNANCE) and access is Access.GOV_RW else READ


def explain(access: Access, name: str) -> str:
    """Why an operation on a map is refused, for the script's author."""
    kind = {READ: "read-only", WRITE: "write-only", 0: "inaccessible"}.get(rights(access, name), "open")
    return f"This table is {kind} in the current ({access.value}) execution context."
