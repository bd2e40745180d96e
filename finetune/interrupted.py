"""Ctrl-C, at any moment of a command: while Python still imports, for seconds, what it needs, too."""

import atexit
import os
import signal
import sys
from types import TracebackType

LINE = "interrupted: what is finished is kept; run the same command again to go on"


def say_it_in_a_line() -> None:
    """From now on a KeyboardInterrupt that nothing handles ends in one line on stderr instead of a traceback.

    The process ends by SIGINT, which a shell calls 130, when all that is due at exit is done. Python itself ends it so,
    but with exit code 1 once torch._dynamo is imported, which has something to do at exit.
    """
    report, interrupted = sys.excepthook, False

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        nonlocal interrupted
        if issubclass(kind, KeyboardInterrupt):
            interrupted = True
            print(LINE, file=sys.stderr)
        else:
            report(kind, error, trace)

    def end() -> None:
        if interrupted:
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    sys.excepthook = hook
    atexit.register(end)  # called last, since it is registered first
