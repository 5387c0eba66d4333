"""The application that the simulation's clients use: registers, public and private, with every shape of transaction.

What is written is the client's choice whatever the state (`support.histories` needs that), and what was read is in the answer.
"""

from typing import Any, Final

from ledgerd.enclave.app import App, Context, RequestError

app = App("simulation", description="Registers.")

PRIVATE: Final = "registers"
PUBLIC: Final = "public:registers"
KEYS: Final = ("p0", "p1", "p2", "s0", "s1", "s2")
"""p: public, s: sealed."""


def map_of(key: str) -> str:
    """In which map a register stands."""
    return PUBLIC if key.startswith("p") else PRIVATE


def _get(ctx: Context, key: str) -> str | None:
    value = ctx.kv[map_of(key)].get(key.encode())
    return None if value is None else value.decode()


def _set(ctx: Context, key: str, value: str) -> None:
    ctx.kv[map_of(key)].set(key.encode(), value.encode())


@app.put("/put/{key}")
def put(ctx: Context, key: str, body: str) -> None:
    """Write, without looking."""
    _set(ctx, key, body)


@app.get("/get/{key}", responses={404: RequestError})
def get(ctx: Context, key: str) -> str:
    """Read."""
    value = _get(ctx, key)
    if value is None:
        raise RequestError(404, "ResourceNotFound", "empty")
    return value


@app.delete("/delete/{key}", responses={404: RequestError})
def delete(ctx: Context, key: str) -> str:
    """Empty a register; what was in it."""
    value = _get(ctx, key)
    if value is None:
        raise RequestError(404, "ResourceNotFound", "empty")
    ctx.kv[map_of(key)].delete(key.encode())
    return value


@app.post("/swap/{key}")
def swap(ctx: Context, key: str, body: str) -> dict[str, Any]:
    """Write; what was there before."""
    before = _get(ctx, key)
    _set(ctx, key, body)
    if _get(ctx, key) != body:
        raise RuntimeError("a transaction does not see its own write")
    return {key: before}


@app.post("/both/{one}/{other}")
def both(ctx: Context, one: str, other: str, body: str) -> dict[str, Any]:
    """Write two registers at once; what was there before."""
    before = {one: _get(ctx, one), other: _get(ctx, other)}
    _set(ctx, one, body)
    _set(ctx, other, body)
    return before


@app.get("/all")
def everything(ctx: Context) -> dict[str, Any]:
    """All registers, by ranges."""
    found = {key.decode(): value.decode() for name in (PRIVATE, PUBLIC) for key, value in ctx.kv[name].items()}
    return {key: found.get(key) for key in KEYS}


@app.post("/claim/{key}")
def claim(ctx: Context, key: str, body: str) -> None:
    """Write, with a claims digest in the receipt."""
    ctx.set_claims_digest(body.encode().ljust(32, b"\0")[:32])
    _set(ctx, key, body)


@app.post("/refuse/{key}", responses={400: RequestError})
def refuse(ctx: Context, key: str, body: str) -> None:
    """Write and then refuse: nothing of it may last."""
    _set(ctx, key, body)
    raise RequestError(400, "InvalidInput", "never")


@app.post("/fail/{key}")
def fail(ctx: Context, key: str, body: str) -> None:
    """Write and then fail: nothing of it may last."""
    _set(ctx, key, body)
    raise RuntimeError("planted in the application")
