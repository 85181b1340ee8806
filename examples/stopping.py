"""Ends a run between two of its steps when it is asked to."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from accelerate import Accelerator


class Terminated(KeyboardInterrupt):
    """What SIGTERM raises, as Ctrl-C raises a `KeyboardInterrupt`."""


KINDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class Stop:
    """Within it SIGTERM and the first Ctrl-C wait for `asked`; a second Ctrl-C interrupts at once.

    Args:
        accelerator: Knows the other processes, which stop after the same step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.kind: type[KeyboardInterrupt] | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # no other one may have handlers
            # A script starts what runs in the background such that it ignores Ctrl-C.
            heard = [n for n in KINDS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
            self.handlers = {number: signal.signal(number, self._keep) for number in heard}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.kind = KINDS[signal.Signals(number)]
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def asked(self) -> type[KeyboardInterrupt] | None:
        """What to stop with, if any process was asked to; all processes have to call it together."""
        if self.accelerator.num_processes == 1:
            return self.kind
        if self.kind:
            self.accelerator.set_trigger()
        return (self.kind or Terminated) if self.accelerator.check_trigger() else None
