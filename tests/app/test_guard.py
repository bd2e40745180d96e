"""app.server.guard: requests are rejected before Gradio sees them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI, Request

from app.server import guard
from app.server.guard import LOGINS_PER_MINUTE, MAX_BODY, MAX_COMMAS, MAX_TEXT, RequestFilter
from app.server.serve import make_app

FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
pytestmark = pytest.mark.anyio


class FakeQueue:
    """Stands in for QueueStatus."""

    running, full = True, False

    def is_running(self) -> bool:
        return self.running

    def is_full_for(self, host: str) -> bool:
        return self.full and host == "127.0.0.1"


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def client(queue: FakeQueue) -> httpx.AsyncClient:
    """An app behind the filter that answers with the length of the body."""

    async def body_length(request: Request) -> int:
        return len(await request.body())

    async def query(request: Request) -> str:
        return str(request.query_params)

    app = FastAPI()
    app.add_middleware(RequestFilter, queue=queue)
    app.add_api_route("/page", lambda: "the page")
    app.add_api_route("/login", body_length, methods=["POST"])
    app.add_api_route("/logout", query)
    app.add_api_route("/gradio_api/{path:path}", body_length, methods=["GET", "POST", "PUT", "DELETE"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("POST", path, 403) for path in ("upload", "upload/", "upload?upload_id=1", "component_server", "vibe-edit")),
        *(("POST", path, 403) for path in ("api/generate", "run/a/b")),
        *(("POST", path, 200) for path in ("queue/join", "queue/join/", "cancel", "reset")),
        *(("POST", path, 200) for path in ("run/predict", "call/generate", "call/v2/generate")),
        *((method, "cancel", 403) for method in ("PUT", "DELETE")),
        # files of other sites
        *(("GET", f"{route}http://a/", 403) for route in ("file=", "file/", "file%3D")),
        *(("GET", f"file={site}", 403) for site in ("https://a/", "HTTPS://a/", "http:%2F%2Fa/")),
        ("GET", "file=/images/http.png", 200),
        # unused routes of Gradio
        *(("GET", f"deep_link{suffix}", 403) for suffix in ("", "/", "?session_hash=x")),
        *(("GET", path, 403) for path in ("token", "startup-events", "dev/reload", "custom_component/a/b/c/d")),
    ],
)
async def test_only_what_the_page_and_clients_use_is_served(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert (await client.request(method, f"/gradio_api/{path}")).status_code == status


FILE_JSON = json.dumps({"data": [[{"deep": [FILE]}]]})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (FILE_JSON, 403),
        (FILE_JSON.replace("_type", "\\u005ftype"), 403),
        (FILE_JSON.encode("utf-16"), 403),
        (json.dumps({"data": [{"image": "a" * MAX_TEXT}]}), 200),
        (json.dumps({"data": [{"image": "a" * (MAX_TEXT + 1)}]}), 413),
        *((json.dumps([[]] * MAX_COMMAS).encode(encoding), 200) for encoding in ("utf-8", "utf-32")),
        *((json.dumps([[]] * (MAX_COMMAS + 2)).encode(encoding), 413) for encoding in ("utf-8", "utf-16", "utf-32")),
        *((json.dumps({"session_hash": name}), 200) for name in ("a" * 64, None)),
        *((json.dumps({"session_hash": name}), 400) for name in ("", "a" * 65, [])),
        *((body, 200) for body in (b"username=a&password=b", b"[" * 100_000, b"\xff", b"")),  # not JSON
    ],
)
async def test_bodies_with_files_or_too_much_data_are_rejected(
    client: httpx.AsyncClient, body: str | bytes, status: int
) -> None:
    response = await client.post("/gradio_api/run/predict", content=body)
    assert response.status_code == status
    if status == 200:
        assert response.json() == len(body), "passed on unchanged"


async def test_gradio_also_rejects_files_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(guard, "_check_body", lambda _: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks() as page:
        text = gr.Textbox()
        text.change(lambda value: value, text, text, queue=False)
    transport = httpx.ASGITransport(make_app(page, auth=None), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        for value, status in (("a star", 200), (FILE, 500)):
            content = {"data": [value], "fn_index": 0, "session_hash": "x"}
            assert (await client.post("/gradio_api/run/predict", json=content)).status_code == status
    assert not list(tmp_path.rglob("passwd"))


async def test_a_chunked_body_passes_complete_or_is_rejected_for_its_size(client: httpx.AsyncClient) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * (MAX_BODY // 4)

    assert (await client.post("/gradio_api/queue/join", content=chunks(4))).json() == MAX_BODY
    rejected = await client.post("/gradio_api/queue/join", content=chunks(5))
    assert (rejected.status_code, rejected.json()) == (413, {"detail": "the request is larger than 4,194,304 bytes"})


async def test_a_body_that_does_not_arrive_times_out(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    assert (await client.post("/gradio_api/queue/join", content=never())).status_code == 408


async def test_a_partial_body_of_a_disconnected_client_is_dropped() -> None:
    messages = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}]
    reached: list[object] = []

    async def app(*arguments: object) -> None:
        reached.append(arguments)

    async def receive() -> object:
        return messages.pop(0)

    async def send(_: object) -> None:
        pass

    scope = {"type": "http", "path": "/gradio_api/cancel", "method": "POST", "headers": [], "client": None}
    await RequestFilter(app, FakeQueue())(scope, receive, send)  # type: ignore[arg-type]
    assert reached == []


async def test_other_sites_may_link_to_the_page_only(client: httpx.AsyncClient) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await client.get("/page", headers=foreign)).status_code == 200
    assert (await client.get("/page", headers=foreign | {"Sec-Fetch-Mode": "no-cors"})).status_code == 403
    assert (await client.post("/gradio_api/cancel", headers=foreign)).status_code == 403
    assert (await client.get("/page", headers=foreign | {"Sec-Fetch-Site": "same-origin"})).status_code == 200


async def test_logout_ends_one_session_only(client: httpx.AsyncClient) -> None:
    for query in ("", "?all_session=true"):
        assert (await client.get(f"/logout{query}")).json() == "all_session=false"


async def test_logins_are_rate_limited(client: httpx.AsyncClient) -> None:
    responses = [await client.post("/login", content=b"password=x") for _ in range(LOGINS_PER_MINUTE + 1)]
    assert [response.status_code for response in responses] == [200] * LOGINS_PER_MINUTE + [429]


async def test_health_needs_no_login_and_reports_a_stopped_queue(client: httpx.AsyncClient, queue: FakeQueue) -> None:
    assert (await client.get("/healthz")).text == "ok"
    queue.running = False
    assert (await client.get("/healthz")).status_code == 503


async def test_an_address_with_a_full_share_of_the_queue_is_rejected(
    client: httpx.AsyncClient, queue: FakeQueue
) -> None:
    queue.full = True
    for path, status in (("queue/join", 503), ("call/generate", 503), ("call/v2/generate", 503), ("cancel", 200)):
        assert (await client.post(f"/gradio_api/{path}", json={})).status_code == status
