"""The client SDK: submit, wait for commit, verify receipts; synchronous (`Client`) and for trio and asyncio (`AsyncClient`).

What the network does on the way is retried within a stated budget, safely; what remains is a typed error.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ledgerd.network.client.client import Client
from ledgerd.network.client.errors import (
    ClientError,
    OutcomeUnknown,
    RequestRefused,
    RetryBudgetExhausted,
    ServiceIdentityMismatch,
    TransactionInvalid,
)
from ledgerd.network.client.identity import ServiceIdentity
from ledgerd.network.client.values import Answer, Budget, Call

if TYPE_CHECKING:
    from ledgerd.network.client.asynchronous import AsyncClient
    from ledgerd.network.client.members import Member

__all__ = [
    "Answer",
    "AsyncClient",
    "Budget",
    "Call",
    "Client",
    "ClientError",
    "Member",
    "OutcomeUnknown",
    "RequestRefused",
    "RetryBudgetExhausted",
    "ServiceIdentity",
    "ServiceIdentityMismatch",
    "TransactionInvalid",
]

_LATER = {"AsyncClient": "asynchronous", "Member": "members"}  # what not every program needs, and takes a while to load


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
