"""app: scripts and browsers get images, one-line refusals, and nothing that is none of their business."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from app import png_metadata
from app.model import load_model
from app.request import Request
from app.sampling import draw
from app.server.serve import credentials
from finetune.errors import InputError
from finetune.params import load_params
from tests.app.test_request import GOOD
from tests.app.test_sampling import cache
from tests.builders.app_server import AppServer
from tests.builders.tiny_export import PROMPTS, make_tiny_run

REQUEST = GOOD | {"height": 64}


@pytest.fixture(scope="module")
def tiny_export(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return make_tiny_run(tiny_base, folder / "run").export_to(folder / "export")


@pytest.fixture(scope="module")
def server(tiny_export: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    server = AppServer(tmp_path_factory.mktemp("served"), tiny_export, "--per-minute", "0", base=tiny_base)
    server.wait(seconds=900)
    yield server
    server.stop()


def client_of(server: AppServer, folder: Path, **options: Any) -> Client:
    return Client(server.address, download_files=folder, verbose=False, analytics_enabled=False, **options)


@pytest.fixture(scope="module")
def client(server: AppServer, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return client_of(server, tmp_path_factory.mktemp("images"))


def drawn(client: Client, api_name: str = "/generate", **request: Any) -> list[Path]:
    return [Path(entry["image"]) for entry in client.predict(**REQUEST | request, api_name=api_name)]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_client_gets_the_picture_that_the_model_draws(client: Client, tiny_export: Path, tiny_base: Path) -> None:
    model = load_model(tiny_export, tiny_base)
    (got,) = drawn(client)
    assert np.array_equal(pixels(got), np.asarray(cache(draw(model.pipeline, Request(**REQUEST))).image))
    assert png_metadata.read(got) == (Request(**REQUEST), model.digest)


def test_several_pictures_have_the_seeds_that_follow(client: Client) -> None:
    images = drawn(client, count=3)
    assert [png_metadata.read(path)[0].seed for path in images] == [7, 8, 9]
    assert np.array_equal(pixels(images[2]), pixels(drawn(client, seed=9)[0]))


def test_settings_that_are_not_given_are_those_of_the_export(client: Client) -> None:
    (picture,) = client.predict(prompt="a star", api_name="/generate")
    request, _ = png_metadata.read(Path(picture["image"]))
    generate = load_params().generate
    assert request == Request("a star", "", 0, generate.num_inference_steps, generate.guidance_scale, "DDIM", 64, 64)


def test_base_and_tuned_model_draw_the_same_request(client: Client, tiny_base: Path, tiny_export: Path) -> None:
    base, tuned = drawn(client, "/compare")
    model = load_model(tiny_export, tiny_base)
    assert np.array_equal(pixels(tuned), pixels(drawn(client)[0]))
    assert np.array_equal(pixels(base), np.asarray(cache(draw(model.base, Request(**REQUEST))).image))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": None}, "The prompt is empty"),
        ({"prompt": "a" * 2000}, "1,?000"),
        ({"seed": -1}, "-1"),
        ({"seed": None}, "Seed is empty"),
        ({"steps": 0}, "0"),
        ({"guidance": 51}, "51"),
        ({"width": 4096}, "4096"),
        ({"height": 100}, "100"),
        ({"count": 9}, "9"),
        ({"scheduler": "none"}, "none"),
    ],
)
def test_a_request_that_cannot_be_drawn_gets_one_line(client: Client, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AppError, match=message) as error:
        drawn(client, **wrong)
    assert "\n" not in str(error.value)


def test_the_whole_api_is_two_endpoints(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert list(endpoints["named_endpoints"]) == ["/generate", "/compare"]
    assert not endpoints["unnamed_endpoints"]


def test_a_canceled_job_stops_computing_after_the_step_at_hand(server: AppServer, client: Client) -> None:
    process = psutil.Process(server.process.pid)

    def seconds_computed(within: float) -> float:
        before = process.cpu_times()
        time.sleep(within)
        after = process.cpu_times()
        return after.user + after.system - before.user - before.system

    minutes = REQUEST | {"steps": 100, "count": 8, "width": 1024, "height": 1024}
    job = client.submit(**minutes, api_name="/generate")
    while not job.outputs():
        assert not job.done(), job.exception()
        time.sleep(0.05)
    while (working := seconds_computed(within=3)) < 0.5:
        assert not job.done()
    job.cancel()
    deadline = time.monotonic() + 120  # for the step at hand; the whole job takes minutes
    while seconds_computed(within=3) >= working / 4:
        assert time.monotonic() < deadline
    assert drawn(client)


def test_200_requests_of_20_clients_are_all_served_in_turn_and_flat_memory(server: AppServer, tmp_path: Path) -> None:
    clients = [client_of(server, tmp_path / str(visitor)) for visitor in range(20)]
    drawn(clients[0])
    before = psutil.Process(server.process.pid).memory_info().rss
    together = Barrier(len(clients))
    served: list[int] = []  # the visitor, as each image comes

    def ten_pictures(visitor: int) -> list[int]:
        together.wait()
        seeds = []
        for i in range(10):
            (picture,) = drawn(clients[visitor], seed=100 * visitor + i, steps=1)
            seeds.append(png_metadata.read(picture)[0].seed)
            served.append(visitor)
        return seeds

    with ThreadPoolExecutor(len(clients)) as visitors:
        seeds = list(visitors.map(ten_pictures, range(len(clients))))
    assert seeds == [[100 * visitor + i for i in range(10)] for visitor in range(20)]
    for images in range(20, len(served), 20):
        counts = Counter(served[:images])
        assert max(counts.values()) - min(counts[visitor] for visitor in range(20)) <= 5, images
    assert psutil.Process(server.process.pid).memory_info().rss < 1.2 * before


def test_settings_and_examples_are_those_of_the_export(server: AppServer) -> None:
    config = server.get("/config").json()
    by_label = {c["props"].get("label"): c["props"] for c in config["components"]}
    assert any([PROMPTS[0]] in c["props"].get("samples", []) for c in config["components"])
    assert [name for name, _ in by_label["Style"]["choices"]] == ["as written", *load_params().export.styles]
    assert [name for name, _ in by_label["Add to the prompt"]["choices"]] == load_params().export.keywords


def test_the_page_loads_nothing_from_elsewhere(server: AppServer) -> None:
    page = server.get("/")
    sources = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']([^\"']+)", page.text)
    assert sources
    assert [url for url in sources if re.match(r"(https?:)?//", url) and not url.startswith(server.address)] == []
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_the_server_turns_to_nobody_outside(client: Client, server: AppServer) -> None:
    drawn(client)
    assert not server.strangers.exists(), server.strangers.read_text()


def test_nothing_can_be_uploaded(server: AppServer) -> None:
    for path in ("/upload", "/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload?upload_id=1"):
        assert httpx.post(f"{server.address}{path}", files={"files": b"x"}).status_code in (403, 404, 405), path


@pytest.mark.parametrize("path", ["/etc/passwd", "models/export/README.md", "../README.md", "params.yaml"])
def test_no_file_of_the_host_can_be_read(server: AppServer, path: str) -> None:
    assert server.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_no_answer_tells_where_the_model_lies(server: AppServer, tiny_export: Path, client: Client) -> None:
    with pytest.raises(AppError) as error:
        drawn(client, prompt="")
    answers = [server.get(path).text for path in ("", "/config", "/gradio_api/info", "/healthz")]
    for place in (tiny_export, tiny_export.parent, Path.cwd(), Path.home() / "x"):
        assert not [answer for answer in (*answers, str(error.value)) if str(place) in answer], place


def test_a_visitor_who_draws_too_often_is_told_to_wait_and_a_password_is_asked_for(
    tiny_export: Path, tmp_path: Path
) -> None:
    environment = {"APP_USER": "ann", "APP_PASSWORD": "secret"}
    server = AppServer(tmp_path, tiny_export, "--per-minute", "2", environment=environment)
    try:
        server.wait(seconds=900)
        assert server.get("/config").status_code == 401
        client = client_of(server, tmp_path, auth=("ann", "secret"))
        with pytest.raises(AppError, match="`dvc repro fetch-base`"):  # which counts: it is looked at only then
            drawn(client, "/compare")
        drawn(client)
        with pytest.raises(AppError, match="the limit here: try again in"):
            drawn(client)
    finally:
        server.stop()


@pytest.mark.parametrize(("set_one", "named"), [("APP_USER", "APP_PASSWORD"), ("APP_PASSWORD", "APP_USER")])
def test_half_a_login_is_refused(monkeypatch: pytest.MonkeyPatch, set_one: str, named: str) -> None:
    for name in ("APP_USER", "APP_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    assert credentials() is None
    monkeypatch.setenv(set_one, "x")
    with pytest.raises(InputError, match=f"{named} is not set"):
        credentials()
