"""app.security: what stands before Gradio."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI, Request

from app import security
from app.security import MAX_BODY, MAX_TEXT, Guard
from app.serve import make_app

FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


async def size_of(request: Request) -> int:
    return len(await request.body())


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(Guard)
    app.add_api_route("/page", lambda: "the page")
    app.add_api_route("/gradio_api/{path:path}", size_of, methods=["GET", "POST", "PUT", "DELETE"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


@pytest.mark.anyio
async def test_uploads_are_refused_and_so_is_all_that_a_page_or_a_client_does_not_send(
    client: httpx.AsyncClient,
) -> None:
    for path in ("upload", "upload/", "upload?upload_id=1", "component_server", "vibe-edit", "api/generate", "run/a/b"):
        assert (await client.post(f"/gradio_api/{path}", content=b"x")).status_code == 403
    for method in ("PUT", "DELETE"):
        assert (await client.request(method, "/gradio_api/cancel")).status_code == 403
    for path in ("queue/join", "queue/join/", "cancel", "reset", "run/predict", "call/generate", "call/v2/generate"):
        assert (await client.post(f"/gradio_api/{path}", content=b"x")).json() == 1
    assert (await client.get("/page")).text == '"the page"'


@pytest.mark.anyio
@pytest.mark.parametrize("site", ["http://a/", "https://a/", "HTTPS://a/", "http:%2F%2Fa/"])
async def test_no_other_site_is_asked_for_a_visitor(client: httpx.AsyncClient, site: str) -> None:
    for route in ("file=", "file/", "file%3D"):
        assert (await client.get(f"/gradio_api/{route}{site}")).status_code == 403
    assert (await client.get("/gradio_api/file=/pictures/http.png")).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"data": [FILE]}),
        json.dumps({"data": [[{"deep": [FILE]}]]}),
        json.dumps({"data": [FILE]}).replace("_type", "\\u005ftype"),
        json.dumps({"data": [FILE]}).encode("utf-16"),
    ],
)
async def test_a_place_of_the_host_is_no_input(client: httpx.AsyncClient, body: str | bytes) -> None:
    assert (await client.post("/gradio_api/run/predict", content=body)).status_code == 403


@pytest.mark.anyio
async def test_gradio_itself_refuses_a_place_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(security, "_refusal", lambda _: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks() as page:
        text = gr.Textbox()
        text.change(lambda said: said, text, text, queue=False)
    transport = httpx.ASGITransport(make_app(page, auth=None), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        for said, status in (("a star", 200), (FILE, 500)):
            content = {"data": [said], "fn_index": 0, "session_hash": "x"}
            assert (await client.post("/gradio_api/run/predict", json=content)).status_code == status
    assert not list(tmp_path.rglob("passwd"))


@pytest.mark.anyio
async def test_a_text_is_as_long_as_a_thumbnail_at_most(client: httpx.AsyncClient) -> None:
    for length, status in ((MAX_TEXT, 200), (MAX_TEXT + 1, 413)):
        answer = await client.post("/gradio_api/queue/join", json={"data": [{"image": "a" * length}]})
        assert answer.status_code == status


@pytest.mark.anyio
async def test_what_is_no_json_is_left_to_who_reads_it(client: httpx.AsyncClient) -> None:
    for body in (b"username=a&password=b", b"[" * 100_000, b"\xff", b""):
        assert (await client.post("/gradio_api/cancel", content=body)).json() == len(body)


@pytest.mark.anyio
async def test_health_is_asked_for_without_a_login(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).text == "ok"


@pytest.mark.anyio
async def test_a_browser_is_told_to_ask_no_other_site(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/page")).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.anyio
async def test_a_body_arrives_whole_or_is_refused_for_its_size(client: httpx.AsyncClient) -> None:
    async def parts(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * (MAX_BODY // 4)

    assert (await client.post("/gradio_api/queue/join", content=parts(4))).json() == MAX_BODY
    refused = await client.post("/gradio_api/queue/join", content=parts(5))
    assert (refused.status_code, refused.text) == (413, "a request has at most 4,194,304 bytes")


@pytest.mark.anyio
async def test_a_body_that_does_not_come_is_given_up(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    assert (await client.post("/gradio_api/queue/join", content=never())).status_code == 408


@pytest.mark.anyio
async def test_half_a_body_of_one_who_has_gone_reaches_nothing() -> None:
    messages = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}]
    reached: list[object] = []

    async def app(*asked: object) -> None:
        reached.append(asked)

    async def receive() -> object:
        return messages.pop(0)

    async def send(_: object) -> None:
        pass

    await Guard(app)({"type": "http", "path": "/gradio_api/cancel", "method": "POST"}, receive, send)
    assert reached == []


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
