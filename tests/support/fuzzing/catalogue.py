"""All targets, by name."""

from typing import Final

from support.fuzzing import admission, attestation, frames, machines, members, records, tokens, web
from support.fuzzing.laws import Maker

MAKERS: Final[dict[str, Maker]] = {
    **frames.MAKERS,
    **web.MAKERS,
    **records.MAKERS,
    **admission.MAKERS,
    **machines.MAKERS,
    **members.MAKERS,
    **tokens.MAKERS,
    **attestation.MAKERS,
}
