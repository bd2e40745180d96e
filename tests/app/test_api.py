"""The demo's API: a real server, called by gradio_client."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from app import png_metadata
from app.model import load_model
from app.request import Request
from app.sampling import generate
from finetune.params import load_params
from tests.app.test_request import GOOD
from tests.app.test_sampling import last_output
from tests.builders.app_server import AppServer
from tests.builders.tiny_export import PROMPTS

REQUEST = GOOD | {"height": 64}


@pytest.fixture(scope="module")
def server(tiny_export: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    server = AppServer(tmp_path_factory.mktemp("served"), tiny_export, "--per-minute", "0", base=tiny_base)
    server.wait(seconds=900)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: AppServer, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return server.connect(tmp_path_factory.mktemp("images"))


def predict(client: Client, api_name: str = "/generate", **request: Any) -> list[Path]:
    return [Path(entry["image"]) for entry in client.predict(**REQUEST | request, api_name=api_name)]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_client_gets_the_image_of_the_exported_model(client: Client, tiny_export: Path, tiny_base: Path) -> None:
    model = load_model(tiny_export, tiny_base)
    (path,) = predict(client)
    expected = last_output(generate(model.pipeline, Request(**REQUEST))).image
    assert np.array_equal(pixels(path), np.asarray(expected))
    assert png_metadata.read(path) == (Request(**REQUEST), model.digest)


def test_several_images_have_consecutive_seeds(client: Client) -> None:
    images = predict(client, num_images=3)
    assert [png_metadata.read(image)[0].seed for image in images] == [7, 8, 9]
    (second,) = predict(client, seed=8)
    assert np.array_equal(pixels(images[1]), pixels(second))


def test_omitted_settings_default_to_those_of_the_evaluation(client: Client) -> None:
    (entry,) = client.predict(prompt="a star", api_name="/generate")
    request, _ = png_metadata.read(Path(entry["image"]))
    params = load_params().generate
    assert request == Request("a star", "", 0, params.num_inference_steps, params.guidance_scale, "DDIM", 64, 64)


def test_compare_returns_the_base_and_the_fine_tuned_image(client: Client, tiny_base: Path, tiny_export: Path) -> None:
    base, tuned = predict(client, "/compare")
    model = load_model(tiny_export, tiny_base)
    assert np.array_equal(pixels(tuned), pixels(predict(client)[0]))
    assert np.array_equal(pixels(base), np.asarray(last_output(generate(model.base, Request(**REQUEST))).image))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"prompt": None}, "The prompt is empty"), ({"prompt": "a" * 2000}, "1,?000"), ({"num_images": 9}, "9")],
)
def test_an_invalid_request_gets_a_one_line_error(client: Client, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AppError, match=message) as error:
        predict(client, **wrong)
    assert "\n" not in str(error.value)


def test_the_api_has_two_endpoints(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    settings = [*REQUEST]
    parameters = {
        name: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in endpoints["named_endpoints"].items()
    }
    assert parameters == {"/generate": [*settings, "num_images"], "/compare": settings}
    assert not endpoints["unnamed_endpoints"]


def test_a_canceled_job_stops_after_the_current_step(server: AppServer, client: Client) -> None:
    process = psutil.Process(server.process.pid)

    def cpu_seconds(interval: float) -> float:
        before = process.cpu_times()
        time.sleep(interval)
        after = process.cpu_times()
        return after.user + after.system - before.user - before.system

    minutes = REQUEST | {"num_inference_steps": 100, "num_images": 8, "width": 1024, "height": 1024}
    job = client.submit(**minutes, api_name="/generate")
    while not job.outputs():
        assert not job.done(), job.exception()
        time.sleep(0.05)
    while (busy := cpu_seconds(interval=3)) < 0.5:
        assert not job.done()
    job.cancel()
    deadline = time.monotonic() + 120  # enough for one step; the complete job takes minutes
    while cpu_seconds(interval=3) >= busy / 4:
        assert time.monotonic() < deadline
    assert predict(client)


def test_200_requests_of_20_clients_are_served_in_turn_with_constant_memory(server: AppServer, tmp_path: Path) -> None:
    clients = [server.connect(tmp_path / str(i)) for i in range(20)]
    predict(clients[0])
    before = psutil.Process(server.process.pid).memory_info().rss
    start = Barrier(len(clients))
    served: list[int] = []  # the client of each image, in order

    def request_ten(index: int) -> list[int]:
        start.wait()
        seeds = []
        for i in range(10):
            (path,) = predict(clients[index], seed=100 * index + i, num_inference_steps=1)
            seeds.append(png_metadata.read(path)[0].seed)
            served.append(index)
        return seeds

    with ThreadPoolExecutor(len(clients)) as pool:
        seeds = list(pool.map(request_ten, range(len(clients))))
    assert seeds == [[100 * index + i for i in range(10)] for index in range(20)]
    for images in range(20, len(served), 20):
        counts = Counter(served[:images])
        assert max(counts.values()) - min(counts[index] for index in range(20)) <= 5, images
    assert psutil.Process(server.process.pid).memory_info().rss < 1.2 * before


def test_presets_and_examples_are_those_of_the_export(server: AppServer) -> None:
    config = server.get("/config").json()
    by_label = {c["props"].get("label"): c["props"] for c in config["components"]}
    assert any([PROMPTS[0]] in c["props"].get("samples", []) for c in config["components"])
    assert [name for name, _ in by_label["Style"]["choices"]] == ["no style", *load_params().export.styles]
    assert [name for name, _ in by_label["Keywords"]["choices"]] == load_params().export.keywords


def test_the_page_and_the_server_contact_no_other_site(server: AppServer, client: Client) -> None:
    predict(client)
    assert not server.outside_hosts.exists(), server.outside_hosts.read_text()
    sources = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']([^\"']+)", server.get("/").text)
    assert sources
    assert [url for url in sources if re.match(r"(https?:)?//", url) and not url.startswith(server.address)] == []


def test_a_login_is_required_and_its_user_is_rate_limited(tiny_export: Path, tmp_path: Path) -> None:
    environment = {"APP_USER": "ann", "APP_PASSWORD": "secret"}
    server = AppServer(tmp_path, tiny_export, "--per-minute", "2", environment=environment)
    try:
        server.wait(seconds=900)
        assert server.get("/config").status_code == 401
        client = server.connect(tmp_path, auth=("ann", "secret"))
        with pytest.raises(AppError, match="`dvc repro fetch-base`"):  # counted, because it is admitted before it fails
            predict(client, "/compare")
        predict(client)
        with pytest.raises(AppError, match="Rate limit reached"):
            predict(client)
    finally:
        server.stop()
