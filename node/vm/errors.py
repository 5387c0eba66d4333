"""What a guest, or the machine around it, can do wrong."""

from typing import ClassVar

from ledgerd.ledger.errors import FormatError, LedgerdError


class GuestError(FormatError):
    """A guest breaks the rules of its device: its queues cannot be read any more, so its machine is over."""

    code: ClassVar[str] = "GuestError"


class MachineError(LedgerdError):
    """A virtual machine did not start, or ended before its enclave was there; the message has what it printed last."""

    code: ClassVar[str] = "MachineError"
