"""app.security: what stands before Gradio."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request

from app import security
from app.security import MAX_BODY, Guard


async def size_of(request: Request) -> int:
    return len(await request.body())


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(Guard)
    app.add_api_route("/gradio_api/upload", lambda: "taken", methods=["GET", "POST"])
    app.add_api_route("/page", lambda: "the page")
    app.add_api_route("/size", size_of, methods=["POST"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


@pytest.mark.anyio
async def test_uploads_are_refused_and_the_rest_goes_through(client: httpx.AsyncClient) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload?upload_id=1", "/upload"):
        assert (await client.post(path, content=b"x")).status_code == 403
    assert (await client.get("/page")).text == '"the page"'


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

    assert (await client.post("/size", content=parts(4))).json() == MAX_BODY
    refused = await client.post("/size", content=parts(5))
    assert (refused.status_code, refused.text) == (413, "a request has at most 4,194,304 bytes")


@pytest.mark.anyio
async def test_a_body_that_does_not_come_is_given_up(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "PATIENCE", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    assert (await client.post("/size", content=never())).status_code == 408


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

    await Guard(app)({"type": "http", "path": "/page", "method": "POST"}, receive, send)
    assert reached == []


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
