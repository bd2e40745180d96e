"""The loader reports every error in params.yaml at once, with the key, its value and what is allowed."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.errors import InputError
from finetune.params import Params, flatten, load_params

COMMITTED = (Path(__file__).parents[1] / "params.yaml").read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def load(file: Path, old: str, new: str) -> Params:
    assert COMMITTED.count(old) == 1, f"{old!r} must be in params.yaml once"
    file.write_text(COMMITTED.replace(old, new))
    return load_params(file)


def error_message(file: Path, old: str, new: str) -> str:
    with pytest.raises(InputError) as caught:
        load(file, old, new)
    return str(caught.value)


def line_of(key: str) -> str:
    """The committed `key: value` without its comment, or the key with the items of its list."""
    [entry] = re.findall(rf"^ *{key}:[^#\n]*(?:\n *- .*)*", COMMITTED, re.MULTILINE)
    return str(entry).rstrip()


def test_the_committed_file_loads(file: Path) -> None:
    file.write_text(COMMITTED)
    assert load_params(file).preset == "sample"


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "2E-5", ".5e-4", "1.0e-5", "0.00001", "1e-3"])
def test_floats_in_every_notation_that_dvc_writes_are_numbers(file: Path, written: str) -> None:
    assert load(file, line_of("lr"), f"  lr: {written}").train.lr == float(written)


def test_an_integer_is_accepted_for_a_float(file: Path) -> None:
    assert load(file, line_of("max_grad_norm"), "  max_grad_norm: 2").train.max_grad_norm == 2.0


def test_a_word_that_looks_like_a_number_is_a_string(file: Path) -> None:
    assert "lr is 'e-5'" in error_message(file, line_of("lr"), "  lr: e-5")


def test_an_unknown_key_is_an_error(file: Path) -> None:
    message = error_message(file, line_of("lr"), line_of("lr") + "\n  lerning_rate: 1.0")
    assert message == f"{file}: train.lerning_rate is not a known key; see presets/ for those that are"


def test_a_missing_key_is_an_error(file: Path) -> None:
    assert error_message(file, line_of("lr") + " ", "  #") == f"{file}: train.lr is missing; copy it from presets/"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", "true", "train.lr is True"),
        ("lr", "-1.0", "greater than 0"),
        ("lr", ".nan", "train.lr is nan"),
        ("lr", ".inf", "train.lr is inf"),
        ("epochs", "0", "greater than or equal to 1"),
        ("epochs", "1.5", "train.epochs is 1.5"),
        ("epochs", "'3'", "train.epochs is '3'"),
        ("epochs", "", "train.epochs is None"),
        ("flip_probability", "1.1", "less than or equal to 1"),
        ("ema_decay", "1.0", "less than 1"),
        ("mixed_precision", "fp32", "'no', 'fp16' or 'bf16'"),
        ("max_captions", "[5]", "tokenize.max_captions is [5]"),
        ("keywords", "[in Paris, 'sharp, bright']", "export.keywords.1 is 'sharp, bright'"),
        ("keywords", "[' in Paris']", "export.keywords.0 is ' in Paris'"),
        ("keywords", "['']", "export.keywords.0 is ''"),
        ("name", "a name/with a slash", "export.name is 'a name/with a slash'"),
    ],
)
def test_a_wrong_value_is_reported_with_what_is_allowed(file: Path, key: str, value: str, expected: str) -> None:
    indent = "  "
    assert expected in error_message(file, line_of(key), f"{indent}{key}: {value}")


def test_errors_of_all_sections_are_reported_at_once(file: Path) -> None:
    file.write_text(COMMITTED.replace(line_of("epochs"), "  epochs: 0").replace(line_of("min_words"), "  min_wrods: 2"))
    with pytest.raises(InputError) as caught:
        load_params(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert {line.split(": ", 1)[1].split(" ")[0] for line in lines} == {
        "train.epochs", "tokenize.min_words", "tokenize.min_wrods",
    }  # fmt: skip


@pytest.mark.parametrize("location", ["https://me:secret@host/a.zip", ["https://host/a.zip", "http://secret@host/a"]])
def test_a_login_in_an_address_is_an_error_that_does_not_repeat_it(location: object, file: Path) -> None:
    content = yaml.safe_load(COMMITTED)
    content["fetch"]["coco"]["val2017.zip"]["location"] = location
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"fetch\.coco\.val2017\.zip: a location contains a login") as refused:
        load_params(file)
    assert "secret" not in str(refused.value)


def test_only_rendered_scenes_may_lack_a_checksum(file: Path) -> None:
    content = yaml.safe_load(COMMITTED)
    content["fetch"]["coco"]["val2017.zip"]["location"] = "photos/val2017.zip"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="checksum may be null only for a scenes: location"):
        load_params(file)


def write_location(file: Path, location: Any) -> None:
    """Write the committed parameters with another location of val2017.zip."""
    content = yaml.safe_load(COMMITTED)
    content["fetch"]["coco"]["val2017.zip"] = {"location": location, "checksum": f"sha256:{'0' * 64}", "bytes": None}
    file.write_text(yaml.safe_dump(content))


def test_an_archive_may_have_mirrors(file: Path) -> None:
    mirrors = [f"http://{host}/val2017.zip" for host in ("images.cocodataset.org", "localhost")]
    for written, expected in (("copies/val2017.zip", ["copies/val2017.zip"]), (mirrors, mirrors)):
        write_location(file, written)
        assert load_params(file).fetch.coco["val2017.zip"].locations == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (5, ".location is 5: give one location, or a list of http(s):// addresses of the same file"),
        ([], ".location is []: list should have at least 1 item"),
        ("", ".location.0 is '': string should have at least 1 character"),
        (
            ["http://host/val2017.zip", "copies/val2017.zip"],
            ": a list of locations takes http(s):// addresses only",
        ),
    ],
)
def test_an_invalid_location_is_an_error(file: Path, location: Any, expected: str) -> None:
    write_location(file, location)
    with pytest.raises(InputError) as caught:
        load_params(file)
    assert f"fetch.coco.val2017.zip{expected}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_model_needs_a_revision(file: Path) -> None:
    message = error_message(file, "location: sample/base", "location: hf://owner/name")
    assert "revision may be null only for a local folder" in message


def test_the_extractor_must_be_fetched(file: Path) -> None:
    message = error_message(file, "  extractor: efficientnet-lite0.pth", "  extractor: inception-2015-12-05.pt")
    assert "fetch.extractor does not list" in message


def test_a_package_may_hold_the_extractor_only(file: Path) -> None:
    write_location(file, "package:photos/val2017.zip")
    with pytest.raises(InputError, match=r"fetch: coco\.val2017\.zip cannot be a package: location; give http"):
        load_params(file)


def test_a_missing_params_file_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"params.yaml: no such file; run this in the repository root"):
        load_params()


def test_a_missing_preset_lists_the_presets() -> None:
    with pytest.raises(InputError, match=r"no such file; choose one of photos, rtx3090, rtx3090-lora, sample$"):
        load_params(Path(__file__).parents[1] / "presets" / "nosuch.yaml")


@pytest.mark.parametrize("content", ["train: [", "a: b: c", "- just\n- a list", ""])
def test_a_file_that_is_not_a_mapping_fails_with_one_line(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        load_params(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")


def test_params_cannot_be_changed_after_loading(file: Path) -> None:
    file.write_text(COMMITTED)
    with pytest.raises(ValueError, match="frozen"):
        load_params(file).train.lr = 1.0  # type: ignore[misc]


def test_a_new_dataset_needs_a_name_and_two_sections(file: Path) -> None:
    archive = f"{{location: photos, checksum: 'sha256:{'0' * 64}', bytes: null}}"
    section = "{format: imagefolder, crop: center, min_side: 1, jpeg_quality: 95, shards: 1, max_dropped: 0}"
    text = COMMITTED.replace("datasets: [coco, flickr8k]", "datasets: [coco, flickr8k, own]")
    text = text.replace("fetch:\n", f"fetch:\n  own: {{own.zip: {archive}}}\n", 1)
    file.write_text(text.replace("preprocess:\n", f"preprocess:\n  own: {section}\n", 1))
    params = load_params(file)
    assert params.datasets == ["coco", "flickr8k", "own"]
    assert params.fetch.archives["own"]["own.zip"].locations == ["photos"]
    assert params.preprocess["own"].format == "imagefolder"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("[coco]", "fetch.flickr8k is not a known key, and datasets does not list it"),
        ("[coco, flickr8k, own]", "datasets lists own, but there is no fetch.own; see docs/own-data.md"),
        ("[coco, flickr8k, coco]", "datasets lists a name twice"),
    ],
)
def test_names_and_sections_of_datasets_must_agree(file: Path, listed: str, message: str) -> None:
    assert message in error_message(file, "datasets: [coco, flickr8k]", f"datasets: {listed}")


@pytest.mark.parametrize("listed", ["[]", "[../coco]", "[Coco]", "coco"])
def test_a_dataset_s_name_is_a_lowercase_word(file: Path, listed: str) -> None:
    assert "datasets" in error_message(file, "datasets: [coco, flickr8k]", f"datasets: {listed}")


def test_flattened_keys_are_dotted() -> None:
    assert flatten({"train": {"lr": 1.0, "a": {"b": None}}, "datasets": ["coco"], "empty": {}}) == {
        "train.lr": 1.0,
        "train.a.b": None,
        "datasets": ["coco"],
    }
