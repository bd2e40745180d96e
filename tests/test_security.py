"""app.security: what stands before Gradio."""

import httpx
import pytest
from fastapi import FastAPI

from app.security import Guard


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(Guard)
    app.add_api_route("/gradio_api/upload", lambda: "taken", methods=["GET", "POST"])
    app.add_api_route("/page", lambda: "the page")
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


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
