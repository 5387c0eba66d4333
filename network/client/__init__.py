"""The client SDK: submit, wait for commit, verify receipts; synchronous (`Client`) and for trio and asyncio (`AsyncClient`).

What the network does on the way is retried within a stated budget, safely; what remains is a typed error.
"""

from ledgerd.network.client.client import AsyncClient, Client
from ledgerd.network.client.errors import (
    ClientError,
    OutcomeUnknown,
    RequestRefused,
    RetryBudgetExhausted,
    ServiceIdentityMismatch,
    TransactionInvalid,
)
from ledgerd.network.client.identity import ServiceIdentity
from ledgerd.network.client.members import Member
from ledgerd.network.client.values import Answer, Budget, Call

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
