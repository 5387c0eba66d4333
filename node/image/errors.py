"""Why an image cannot be made, or is not read."""

from typing import ClassVar, Final

from ledgerd.ledger.errors import FormatError, LedgerdError

# Names of rules are stable: scripts rely on them. In the order in which they are checked.
RULES: Final = (
    "size",  # too short for a header, or longer than any image
    "header",  # magic, version, flags, number of sections
    "layout",  # sections do not follow each other without gap from the header to the end of the file
    "section",  # a section's own header: unknown type, flags, a size other than the table's
    "sections",  # which sections there are: one kernel, one command line, ramdisks; others at most once
    "checksum",  # CRC32 over everything
    "command_line",  # not one line of text
    "metadata",  # not a JSON object
    "signature",  # not the one CBOR shape that signatures have
)


class ImageError(LedgerdError):
    """An image cannot be made on this machine, or from these parts: the message says what to change."""

    code: ClassVar[str] = "ImageError"


class EifError(FormatError):
    """A file is refused as an enclave image.

    Attributes:
        rule: One of `RULES`.
    """

    code: ClassVar[str] = "EifError"

    def __init__(self, rule: str, message: str) -> None:
        assert rule in RULES, rule
        super().__init__(f"no enclave image, by rule {rule!r}: {message}")
        self.rule = rule
