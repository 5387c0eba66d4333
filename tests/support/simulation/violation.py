"""What is raised where a rule is broken."""


class Violation(AssertionError):
    """A rule is broken.

    Attributes:
        rule: Its name.
    """

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
