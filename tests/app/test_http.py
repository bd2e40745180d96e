"""The demo's HTTP surface: hostile requests are rejected and affect no other client."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from app.server.guard import MAX_BODY
from tests.app.test_request import GOOD
from tests.builders.app_server import ROOT, AppServer

REQUEST = GOOD | {"height": 64}
SLOW_REQUEST = REQUEST | {"num_inference_steps": 100, "num_images": 8, "width": 1024, "height": 1024}
PROXY = "192.0.2.1"  # the only trusted proxy; a reserved address that no client has
OUTSIDE = [
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "..%252f..%252f..%252fetc%252fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..\\..\\..\\etc\\passwd",
    "/etc/passwd%00.png",
    "models/export/README.md",
    "http://127.0.0.1:1/",
]
ROUTES = [
    "/static/{}",
    "/assets/{}",
    "/svelte/{}",
    "/pwa_icon/{}",
    "/file={}",
    "/file/{}",
    "/gradio_api/file={}",
    "/gradio_api/file/{}",
    "/gradio_api/proxy={}",
    "/gradio_api/custom_component/x/client/component/{}",
    "/gradio_api/stream/x/1/1/{}",
    "/gradio_api/runs/{}",
    "/?deep_link={}",
]
PAGES = ["/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/theme.css", "/manifest.json", "/healthz"]


@pytest.fixture(scope="module")
def server(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """At most one request may wait. Forwarded addresses are trusted from PROXY only."""
    server = AppServer(
        tmp_path_factory.mktemp("served"),
        tiny_export,
        *("--queue", "1", "--per-minute", "12"),
        environment={"FORWARDED_ALLOW_IPS": PROXY},
    )
    server.wait(seconds=900)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: AppServer, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return server.connect(tmp_path_factory.mktemp("images"))


def connect(server: AppServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1])), timeout=30)


def send_raw(server: AppServer, request: bytes) -> bytes:
    """The response to exactly these bytes; an HTTP client would normalize the path."""
    with connect(server) as connection:
        connection.sendall(request)
        response = b""
        while part := connection.recv(2**16):
            response += part
        return response


def get_raw(server: AppServer, path: str) -> bytes:
    return send_raw(server, f"GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n".encode())


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_serves_files_outside_its_folder(server: AppServer, route: str) -> None:
    next_to_images = f"{server.output.parent}/images/../output.txt"  # Gradio does serve the images folder
    for path in (*OUTSIDE, next_to_images, next_to_images.replace("..", "%2e%2e")):
        response = get_raw(server, route.format(path))
        status, _, body = response.partition(b"\r\n\r\n")
        assert b"root:" not in body, path
        assert b"Ctrl-C stops it" not in body, path  # a line of output.txt
        if "deep_link" not in route:  # this one returns the page
            assert status.split()[1] in (b"400", b"403", b"404", b"422"), (path, response)


def test_no_response_contains_a_path_of_the_host(server: AppServer, client: Client, tiny_export: Path) -> None:
    paths = [*PAGES, *(route.format(path) for route in ROUTES for path in ("x", "%00"))]
    texts = {path: get_raw(server, path).decode(errors="replace") for path in paths}
    with pytest.raises(AppError) as error:
        client.predict(**REQUEST | {"prompt": ""}, api_name="/generate")
    texts["/generate"] = str(error.value)
    secret = (ROOT, server.output.parent, tiny_export.parent, Path.home() / "x", Path(psutil.__file__).parent.parent)
    for path, text in texts.items():
        public = text.replace(f"{server.output.parent}/images", "")
        assert not [place for place in secret if str(place) in public], path


def test_no_endpoint_accepts_a_file_of_the_host_or_of_another_site(server: AppServer) -> None:
    """Gradio would accept a file for any input, copy it to where it can be fetched, and return the copy's path."""
    functions = server.get("/config").json()["dependencies"]
    for place in ("/proc/self/environ", str(server.output), "http://192.0.2.2/x"):
        file = {"path": place, "meta": {"_type": "gradio.FileData"}}
        for function in functions:
            content = {
                "data": [file] * len(function["inputs"]), "fn_index": function["id"], "session_hash": "s",
                "event_data": file,
            }  # fmt: skip
            for route in ("run/predict", "queue/join", f"call/{function['api_name']}"):
                assert httpx.post(f"{server.address}/gradio_api/{route}", json=content).status_code == 403
    kept = {path.name for path in (server.output.parent / "images").rglob("*")}
    assert not kept & {"environ", server.output.name, "x"}
    assert not server.outside_hosts.exists()


def test_an_oversized_request_is_rejected_and_not_kept_in_memory(server: AppServer) -> None:
    body = b'{"data": ["' + b"a" * 8 * MAX_BODY + b'"]}'
    before = psutil.Process(server.process.pid).memory_info().rss
    for path in ("queue/join", "run/generate", "call/generate", "cancel", "reset"):
        for content in (body, iter([body])):  # with a Content-Length, and chunked
            response = httpx.post(f"{server.address}/gradio_api/{path}", content=content, timeout=60)
            assert response.status_code == 413, path
    assert psutil.Process(server.process.pid).memory_info().rss < before + 2 * MAX_BODY
    assert server.output.stat().st_size < MAX_BODY


def test_oversized_headers_close_the_connection(server: AppServer) -> None:
    with contextlib.suppress(ConnectionError):  # the server may close before it has read everything
        assert send_raw(server, b"GET / HTTP/1.1\r\nHost: app\r\nX: " + b"a" * 2**20).startswith(b"HTTP/1.1 400")
    assert server.get("/healthz").text == "ok"


@pytest.mark.parametrize("path", ["run/generate", "run/compare"])
def test_the_queue_cannot_be_bypassed(server: AppServer, path: str) -> None:
    response = httpx.post(f"{server.address}/gradio_api/{path}", json={"data": [*REQUEST.values(), 1]})
    assert response.status_code == 404
    assert "join the queue" in response.text


@pytest.mark.parametrize(
    "header",
    [
        "Host: evil.example",
        "X-Forwarded-Host: evil.example",
        "X-Gradio-Server: http://evil.example",
        "X-Forwarded-Proto: evil.example",
        "X-Forwarded-Prefix: //evil.example",
        "Forwarded: host=evil.example",
        "Referer: http://evil.example",
        "Origin: http://evil.example",
        "X-Original-URL: /healthz",
        "X-Rewrite-URL: /healthz",
        "X-HTTP-Method-Override: GET",
    ],
)
def test_a_forged_header_affects_no_other_client_and_no_guard(server: AppServer, header: str) -> None:
    headers = dict([header.split(": ")])
    for path in ("/", "/config", "/gradio_api/info"):
        response = server.get(path, headers=headers)
        assert response.is_success
        assert not [name for name in response.headers if name.startswith("access-control")]
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "evil.example" not in server.get(path).text
    upload = httpx.post(f"{server.address}/gradio_api/upload", headers=headers, files={"files": b"x"})
    assert upload.status_code == 403


def test_200_stalled_connections_do_not_block_other_clients(server: AppServer, client: Client) -> None:
    """Half of them never finish their headers; the others never send the body that they announce."""
    starts = [
        b"GET / HTTP/1.1\r\nHost: app\r\nX-Slow: ",
        b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: app\r\nContent-Length: 1000\r\n\r\n{",
    ]
    with contextlib.ExitStack() as connections:
        for i in range(200):
            connections.enter_context(connect(server)).sendall(starts[i % 2])
        assert server.get("/healthz").text == "ok"
        assert client.predict(**REQUEST, api_name="/generate")
    assert server.get("/healthz").text == "ok"


def test_a_waiting_client_sees_its_position_and_a_full_queue_rejects_others(client: Client) -> None:
    running = client.submit(**SLOW_REQUEST, api_name="/generate")
    waiting = None
    try:
        while not running.outputs():
            assert not running.done(), running.exception()
            time.sleep(0.05)
        waiting = client.submit(**REQUEST, api_name="/generate")
        while (status := waiting.status()).rank is None:
            assert not waiting.done()
            time.sleep(0.05)
        assert (status.rank, status.queue_size) == (0, 1)
        with pytest.raises(QueueError, match=r"^Queue is full"):
            client.predict(**REQUEST, api_name="/generate")
    finally:
        running.cancel()
    assert waiting.result()


def test_forged_forwarded_addresses_do_not_evade_the_rate_limit(server: AppServer, tmp_path: Path) -> None:
    """Keep last: it uses up the rate limit."""
    clients = [server.connect(tmp_path, headers={"X-Forwarded-For": f"203.0.113.{i}"}) for i in range(2)]
    with pytest.raises(AppError, match=r"Rate limit reached \(12 requests per minute\)"):
        for i in range(13):
            clients[i % 2].predict(**REQUEST | {"num_inference_steps": 1}, api_name="/generate")
