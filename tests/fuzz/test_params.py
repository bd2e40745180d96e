"""Any edit of params.yaml gives valid parameters or one line per error."""

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.errors import InputError
from finetune.params import Params, load_params
from tests.fuzz.answers import result_or_fault

COMMITTED = (Path(__file__).parents[2] / "params.yaml").read_text()
TREE = yaml.safe_load(COMMITTED)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 100)
    | st.floats()
    | st.text()
    | st.dates()
    | st.binary(max_size=9)
    | st.sampled_from(["coco", "flickr8k", "../coco", "https://host/a.zip", "scenes:coco", f"sha256:{'0' * 64}"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4), max_leaves=8
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [each for key, value in children for each in ((*path, key), *places(value, (*path, key)))]


def load(text: str | bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        return result_or_fault(lambda: load_params(file), str(file), several=True)


def is_right(params: Any) -> bool:
    return isinstance(params, InputError | Params)


@settings(max_examples=200)
@given(st.text() | st.binary() | st.text(alphabet="&*[]{}:<!?-|>'\"%@#,. \n\t019aeinfx_"))
def test_any_bytes(text: str | bytes) -> None:
    assert isinstance(load(text), InputError)


@settings(max_examples=120)
@given(st.sampled_from(places(TREE)), VALUES)
def test_any_value_in_the_place_of_any_other(place: tuple[Any, ...], value: Any) -> None:
    tree = copy.deepcopy(TREE)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    assert is_right(load(yaml.dump(tree)))


@settings(max_examples=60)
@given(st.sampled_from(places(TREE)), SCALARS, VALUES)
def test_any_key_next_to_any_other(place: tuple[Any, ...], key: Any, value: Any) -> None:
    tree = copy.deepcopy(TREE)
    node = tree
    for part in place[:-1]:
        node = node[part]
    if isinstance(node, dict):
        node[key] = value
    assert is_right(load(yaml.dump(tree)))


@settings(max_examples=120)
@given(
    st.integers(0, COMMITTED.count("\n") - 1),
    st.text(alphabet="&*[]{}:<!?-|>'\"%@#,. \t0179aeinfxbo_~=") | st.text(),
)
@example(3, "2020-13-45")
@example(3, "1" * 5000)
@example(3, "._")
@example(3, "0b_")
@example(3, '"\\U00110000"')
@example(3, '"\\ud800"')
@example(3, "!!python/object/apply:os.system [false]")
@example(3, "!!int x")
@example(3, "!!timestamp x")
@example(3, "!!bool x")
@example(3, "!!float []")
@example(3, "!!binary ü")
@example(3, "!!set {a, b}")
@example(3, "[" * 5000)
def test_any_text_in_the_place_of_a_value(line: int, text: str) -> None:
    lines = COMMITTED.splitlines()
    key, colon, _ = lines[line].partition(":")
    lines[line] = f"{key}{colon} {text}"
    assert is_right(load("\n".join(lines)))


@pytest.mark.parametrize("doubled", ["k{i}: &k{i} [{last}, {last}]", "k{i}: &k{i}\n  <<: [{last}, {last}]"])
def test_nested_aliases_are_rejected_quickly(doubled: str) -> None:
    """The "billion laughs" attack."""
    lines = [doubled.format(i=i, last=f"*k{i - 1}" if i else "{a: 1}") for i in range(40)]
    assert "an alias (*name); replace it with its value" in str(load("\n".join(lines)))


def test_a_list_that_holds_itself() -> None:
    assert isinstance(load(COMMITTED.replace("datasets: [coco, flickr8k]", "datasets: &a [*a]")), InputError)
    assert isinstance(load("&a {train: *a}"), InputError)


@pytest.mark.parametrize("kind", ["folder", "unreadable"])
def test_a_path_that_is_not_a_readable_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.mkdir() if kind == "folder" else file.touch(mode=0)
    if kind == "folder" or os.geteuid():
        assert isinstance(result_or_fault(lambda: load_params(file), str(file)), InputError)
