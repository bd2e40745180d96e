"""The one exception for what a user can mend."""


class InputError(Exception):
    """Something given to us is wrong. The message is one line: the file or key, the fault, the remedy."""
