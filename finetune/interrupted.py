"""Ctrl-C, at any moment of a command: while Python still imports, for seconds, what it needs, too."""

import sys
from types import TracebackType


def say_it_in(line: str) -> None:
    """From now on a KeyboardInterrupt that nothing handles ends in `line` on stderr instead of a traceback.

    The process ends as Python has it end then: by SIGINT, which a shell calls 130.
    """
    report = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(line, file=sys.stderr)
        else:
            report(kind, error, trace)

    sys.excepthook = hook
