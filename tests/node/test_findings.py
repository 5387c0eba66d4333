"""What a constitution finds wrong, on lines of its own and with the name that was meant."""

import pytest

from ledgerd.node.findings import readable

INTRO = "400 ProposalFailedToValidate: Proposal failed to validate:"
NO_SUCH = "there is no such action"
NAMES = "there are set_member, set_user, set_user_data"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (f"{INTRO} set_usr at position 0: {NO_SUCH}: {NAMES}", f"{INTRO} set_usr at position 0: {NO_SUCH}; did you mean set_user?"),
        (
            f"{INTRO} set_user at position 0: cert: expected one; or two; mend at position 1: {NO_SUCH}: {NAMES}",
            f"{INTRO}\nset_user at position 0: cert: expected one; or two\nmend at position 1: {NO_SUCH}: {NAMES}",
        ),
        ("Another rule says no; a at position: b", "Another rule says no; a at position: b"),
        ("First; a at position 1: wrong", "First\na at position 1: wrong"),
        ("", ""),
    ],
)
def test_findings_are_told_one_by_one(message: str, told: str) -> None:
    assert readable(message) == told
