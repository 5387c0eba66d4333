"""Copies of objects with all that they hold, also of compiled classes, which Python's own `copy` cannot take apart."""

import copyreg
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

Thing = TypeVar("Thing")


def fields(thing: object) -> list[str]:
    """The names of all that an object holds itself."""
    kind = type(thing)
    names: tuple[str, ...] | None = getattr(kind, "__mypyc_attrs__", None)  # compiled classes say it so, and have no slots
    if names is None:
        names = (*(name for base in kind.__mro__ for name in getattr(base, "__slots__", ())), *getattr(thing, "__dict__", ()))
    return [name for name in names if hasattr(thing, name)]


def put(into: object, thing: object) -> None:
    """Have an object hold what another one of its class holds."""
    for name in fields(thing):
        setattr(into, name, getattr(thing, name))


def copied(thing: Thing, shared: dict[int, Any]) -> Thing:
    """A copy of an object and of all that it holds, but for what is `shared`, by `id`."""
    return deepcopy(thing, shared)


def allow(kind: type[Any], blank: Callable[[], Any]) -> None:
    """Objects of this class may be copied, be they compiled or not. `blank` makes one that is to be filled."""

    def apart(thing: object) -> tuple[Any, ...]:
        held = {name: getattr(thing, name) for name in fields(thing)}
        return blank, (), held if hasattr(thing, "__setstate__") else (None, held)  # compiled classes have one, which takes no pair

    copyreg.pickle(kind, apart)  # which is what `copy` asks, too
