"""The one exception for what a user can mend."""

LONGEST = 2000  # characters of a line; what a fault quotes may be of any length


class InputError(Exception):
    """Something given to us is wrong. The message is one line: the file or key, the fault, the remedy.

    Several faults that are told at once have a line each, and an argument each. What is quoted can neither break a
    line nor steer a terminal.
    """

    def __str__(self) -> str:
        return "\n".join(_one_line(str(line)) for line in self.args)


def _one_line(text: str) -> str:
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    half = LONGEST // 2 - 2
    return printable if len(printable) <= LONGEST else f"{printable[:half]} .. {printable[-half:]}"
