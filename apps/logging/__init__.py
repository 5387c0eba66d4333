"""The first application: text messages under keys, private or public. The module that `ledgerd dev` runs by default.

Private messages stand sealed in the ledger; public ones in plain text, for every auditor to read.
"""

from dataclasses import dataclass
from typing import Any

from ledgerd.enclave.app import App, Context, HistoricalState, RequestError

app = App("logging", description="Text messages under keys, private (sealed) or public (in plain text in the ledger).")

PRIVATE = "records"
PUBLIC = "public:records"


RANGE_MAX = 2_000  # transactions of one request: a handler runs alone, so it must not run for long


@dataclass
class Written:
    """A message as one transaction wrote it: None if it removed it."""

    transaction_id: str
    message: str | None


@dataclass
class Proven(Written):
    """The same with the receipt, which proves that the transaction is committed."""

    receipt: dict[str, Any]


@app.put("/records/{key}")
def put_private(ctx: Context, key: str, body: str) -> None:
    """Write a private message."""
    ctx.kv[PRIVATE].set(key.encode(), body.encode())


@app.get("/records/{key}", responses={404: RequestError})
def get_private(ctx: Context, key: str) -> str:
    """Read a private message."""
    return _read(ctx, PRIVATE, key)


@app.delete("/records/{key}", responses={404: RequestError})
def delete_private(ctx: Context, key: str) -> None:
    """Remove a private message. It stays in the ledger's history, sealed."""
    _delete(ctx, PRIVATE, key)


@app.get("/records/{key}/historical", historical=True)
def get_private_historical(ctx: Context, key: str) -> Proven:
    """Read a private message as the transaction that the request's header names wrote it."""
    state = ctx.historical
    found = _written(state, PRIVATE, key)
    if found is None:
        raise RequestError(404, "ResourceNotFound", f"Transaction {state.transaction_id} did not write record {key}.")
    return Proven(found.transaction_id, found.message, state.receipt)


@app.put("/public/records/{key}")
def put_public(ctx: Context, key: str, body: str) -> None:
    """Write a public message."""
    ctx.kv[PUBLIC].set(key.encode(), body.encode())


@app.get("/public/records/{key}", responses={404: RequestError})
def get_public(ctx: Context, key: str) -> str:
    """Read a public message."""
    return _read(ctx, PUBLIC, key)


@app.delete("/public/records/{key}", responses={404: RequestError})
def delete_public(ctx: Context, key: str) -> None:
    """Remove a public message. It stays in the ledger's history for everybody to read."""
    _delete(ctx, PUBLIC, key)


@app.get("/public/records/{key}/historical/range", responses={400: RequestError, 404: RequestError})
def get_public_range(ctx: Context, key: str, first: int, last: int) -> list[Written]:
    """Read what transactions `first` to `last`, committed ones, made of a public message."""
    if last - first >= RANGE_MAX:
        raise RequestError(
            400, "RangeTooLarge", f"At most {RANGE_MAX} transactions are read at once; ask for {first} to {first + RANGE_MAX - 1}."
        )
    found = (_written(state, PUBLIC, key) for state in ctx.states(first, last))
    return [written for written in found if written is not None]


def _written(state: HistoricalState, name: str, key: str) -> Written | None:
    written = state.kv[name]
    value = written.get(key.encode())
    if value is None and not written.removed(key.encode()):
        return None
    return Written(str(state.transaction_id), None if value is None else value.decode())


def _read(ctx: Context, name: str, key: str) -> str:
    value = ctx.kv[name].get(key.encode())
    if value is None:
        raise _unknown(key)
    return value.decode()


def _delete(ctx: Context, name: str, key: str) -> None:
    if not ctx.kv[name].delete(key.encode()):
        raise _unknown(key)


def _unknown(key: str) -> RequestError:
    return RequestError(404, "ResourceNotFound", f"There is no record {key}.")
