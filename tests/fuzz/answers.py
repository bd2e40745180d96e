"""The property: whatever comes in, there is a right result, or one line that says what is wrong and where."""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from finetune.errors import MAX_LENGTH, InputError

# The same examples every time and no file of its own: a failure here fails everywhere.
settings.register_profile("same", derandomize=True, deadline=None, database=None, print_blob=False)
settings.load_profile("same")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def result_or_fault(call: Callable[[], Any], *names: str, several: bool = False) -> Any:
    """What the call returns; its InputError, if that is one printable line that names all of `names`.

    `several`: whether there may be more such lines.
    """
    try:
        return call()
    except InputError as error:
        lines = str(error).split("\n")
        assert several or len(lines) == 1
        for line in lines:
            assert line.isprintable(), f"not one line: {line!r}"
            assert len(line) <= MAX_LENGTH
            assert all(name in line for name in names), f"does not name {names}: {line}"
        return error
