"""What a client takes, by its header `accept`: the service's own JSON goes to those alone who take JSON.

As in CCF: the service's endpoints of `/app` and `/node`, and `/gov/api`, answer 406 to others. Errors are JSON for everybody; the other
endpoints of `/gov`, what is no JSON, and applications do not look at it. Nothing is refused that CCF answers: there is but one form to
give, so a low `q`, even 0, still takes it; parameters of a media type say nothing here, and its letters may be large.
Not here: which endpoints these are (`enclave.built_ins`).
"""

import re
from collections.abc import Mapping
from typing import Final

from ledgerd.enclave.requests import JSON
from ledgerd.ledger.errors import RequestError

_ANYTHING: Final = ("*/*", JSON, "*")  # as clients send them nearly always; `*` alone is Java's
_TAKES_JSON: Final = frozenset({"*/*", "*", "*/json", "application/*", JSON})
_SHOWN_MAX: Final = 256

_is_number: Final = re.compile(r"[+-]?(\d|\.\d)").match


def check_takes_json(headers: Mapping[str, str]) -> None:
    """Raises: RequestError: 406 UnsupportedContentType, the client takes no JSON; 400 InvalidHeaderValue, the header is none."""
    accept = headers.get("accept")
    if accept is None or accept in _ANYTHING:
        return
    takes_json = False
    for element in accept.lower().split(","):
        media_type, _, parameters = element.replace(" ", "").replace("\t", "").partition(";")
        if not media_type and not parameters:
            continue  # RFC 9110, 5.6.1.2: empty elements of a list are to be ignored
        kind, slash, subtype = media_type.partition("/")
        if not (kind and slash and subtype) and media_type != "*":
            raise _malformed(element, "is no media type, such as application/json")
        for parameter in parameters.split(";"):
            if parameter.startswith("q=") and _is_number(parameter, 2) is None:
                raise _malformed(element, "has a q that is no number")
        takes_json = takes_json or media_type in _TAKES_JSON
    if not takes_json:
        what = f"The header accept {_shown(accept)} takes nothing that is here: the answer is {JSON}, and nothing else."
        raise RequestError(406, "UnsupportedContentType", what)


def _malformed(element: str, what: str) -> RequestError:
    return RequestError(400, "InvalidHeaderValue", f"The entry {_shown(element)} of the header accept {what}.")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")
