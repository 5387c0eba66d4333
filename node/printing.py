"""Text from strangers, made fit for a terminal or a log that is read on one. Pure."""


def printable(text: str) -> str:
    """A text without what a terminal would obey: such characters are shown by their codes. Lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text)


def one_line(text: str) -> str:
    """The same, on one line."""
    return printable(text).replace("\n", "\\n")
