"""The exception for errors that the user can fix."""

MAX_LENGTH = 2000  # characters per line; a message may quote text of any length


class InputError(Exception):
    """A user error. The message is one line: `<file or key>: <problem>; <fix>`.

    Several errors at once are passed as several arguments and printed one per line. Control characters in quoted text
    are escaped, so they cannot break a line or send commands to a terminal.
    """

    def __str__(self) -> str:
        return "\n".join(_one_line(str(line)) for line in self.args)


def _one_line(text: str) -> str:
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    half = MAX_LENGTH // 2 - 2
    return printable if len(printable) <= MAX_LENGTH else f"{printable[:half]} .. {printable[-half:]}"
