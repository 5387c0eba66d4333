"""All targets, by name."""

from typing import Final

from support.fuzzing import admission, attestation, frames, javascript, machines, members, records, scripts, tokens, web
from support.fuzzing.laws import Maker

MAKERS: Final[dict[str, Maker]] = {
    **frames.MAKERS,
    **web.MAKERS,
    **records.MAKERS,
    **admission.MAKERS,
    **machines.MAKERS,
    **members.MAKERS,
    **scripts.MAKERS,
    **javascript.MAKERS,
    **tokens.MAKERS,
    **attestation.MAKERS,
}
