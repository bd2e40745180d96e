"""app.server.guard: what stands before Gradio."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI, Request, Response

from app.server import guard
from app.server.guard import LOGINS, MAX_BODY, MAX_COMMAS, MAX_TEXT, Guard
from app.server.serve import make_app

FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


async def body_bytes(request: Request) -> int:
    return len(await request.body())


async def query_of(request: Request) -> str:
    return str(request.query_params)


class Places:
    """app.limits.Waiting as a test wants it."""

    def __init__(self) -> None:
        self.working, self.full = True, False

    def works(self) -> bool:
        return self.working

    def is_full_for(self, host: str) -> bool:
        return self.full and host == "127.0.0.1"


@pytest.fixture
def places() -> Places:
    return Places()


@pytest.fixture
def client(places: Places) -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(Guard, waiting=places)
    app.add_api_route("/page", lambda: Response("the page", headers={"Access-Control-Allow-Origin": "http://a"}))
    app.add_api_route("/login", body_bytes, methods=["POST"])
    app.add_api_route("/logout", query_of)
    app.add_api_route("/gradio_api/{path:path}", body_bytes, methods=["GET", "POST", "PUT", "DELETE"])
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
    assert (await client.get("/page")).text == "the page"


@pytest.mark.anyio
@pytest.mark.parametrize("site", ["http://a/", "https://a/", "HTTPS://a/", "http:%2F%2Fa/"])
async def test_no_other_site_is_asked_for_a_visitor(client: httpx.AsyncClient, site: str) -> None:
    for route in ("file=", "file/", "file%3D"):
        assert (await client.get(f"/gradio_api/{route}{site}")).status_code == 403
    assert (await client.get("/gradio_api/file=/images/http.png")).status_code == 200


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
    monkeypatch.setattr(guard, "_refused_body", lambda _: None)
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
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
async def test_values_without_number_are_refused_before_they_take_memory(
    client: httpx.AsyncClient, encoding: str
) -> None:
    for values, status in ((MAX_COMMAS, 200), (MAX_COMMAS + 2, 413)):
        answer = await client.post("/gradio_api/run/predict", content=json.dumps([[]] * values).encode(encoding))
        assert answer.status_code == status


@pytest.mark.anyio
async def test_what_is_no_json_is_left_to_who_reads_it(client: httpx.AsyncClient) -> None:
    for body in (b"username=a&password=b", b"[" * 100_000, b"\xff", b""):
        assert (await client.post("/gradio_api/cancel", content=body)).json() == len(body)


@pytest.mark.anyio
@pytest.mark.parametrize("route", ["deep_link", "token", "startup-events", "dev/reload", "custom_component/a/b/c/d"])
async def test_what_the_page_does_not_use_is_not_served(client: httpx.AsyncClient, route: str) -> None:
    for path in (f"/gradio_api/{route}", f"/gradio_api/{route}/", f"/gradio_api/{route}?session_hash=x"):
        assert (await client.get(path)).status_code == 403


@pytest.mark.anyio
async def test_another_site_may_link_to_the_page_and_no_more(client: httpx.AsyncClient) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await client.get("/page", headers=foreign)).status_code == 200
    assert (await client.get("/page", headers=foreign | {"Sec-Fetch-Mode": "no-cors"})).status_code == 403
    assert (await client.post("/gradio_api/cancel", headers=foreign)).status_code == 403
    assert (await client.get("/page", headers=foreign | {"Sec-Fetch-Site": "same-origin"})).status_code == 200
    assert "access-control-allow-origin" not in (await client.get("/page")).headers


@pytest.mark.anyio
async def test_who_logs_out_does_so_alone(client: httpx.AsyncClient) -> None:
    for query in ("", "?all_session=true"):
        assert (await client.get(f"/logout{query}")).json() == "all_session=false"


@pytest.mark.anyio
async def test_passwords_are_not_tried_by_the_thousand(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/login", content=b"password=x") for _ in range(LOGINS + 1)]
    assert [answer.status_code for answer in answers] == [200] * LOGINS + [429]


@pytest.mark.anyio
async def test_health_is_asked_for_without_a_login_and_told_as_it_is(client: httpx.AsyncClient, places: Places) -> None:
    assert (await client.get("/healthz")).text == "ok"
    places.working = False
    assert (await client.get("/healthz")).status_code == 503


@pytest.mark.anyio
async def test_an_address_that_holds_its_share_of_the_queue_waits(client: httpx.AsyncClient, places: Places) -> None:
    places.full = True
    for path, status in (("queue/join", 503), ("call/generate", 503), ("call/v2/generate", 503), ("cancel", 200)):
        assert (await client.post(f"/gradio_api/{path}", json={})).status_code == status


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "status"), [("a" * 64, 200), (None, 200), ("", 400), ("a" * 65, 400), ([], 400)])
async def test_a_session_has_a_name_of_reasonable_length(client: httpx.AsyncClient, name: object, status: int) -> None:
    answer = await client.post("/gradio_api/queue/join", json={"data": [], "session_hash": name})
    assert answer.status_code == status


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
    assert (refused.status_code, refused.json()) == (413, {"detail": "a request has at most 4,194,304 bytes"})


@pytest.mark.anyio
async def test_a_body_that_does_not_come_is_given_up(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)

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

    scope = {"type": "http", "path": "/gradio_api/cancel", "method": "POST", "headers": [], "client": None}
    await Guard(app, Places())(scope, receive, send)  # type: ignore[arg-type]
    assert reached == []


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
