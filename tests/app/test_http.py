"""The app's HTTP surface: what is no request of a page or a client is refused, and hurts nobody else."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from app.server.guard import MAX_BODY
from tests.app.test_request import GOOD
from tests.builders.app_server import ROOT, AppServer
from tests.builders.tiny_export import make_tiny_run

REQUEST = GOOD | {"height": 64}
MINUTES = REQUEST | {"steps": 100, "count": 8, "width": 1024, "height": 1024}
PROXY = "192.0.2.1"  # the only one whose word on addresses counts, and nobody's
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
ANSWERING = ["/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/theme.css", "/manifest.json", "/healthz"]


@pytest.fixture(scope="module")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """One waits at most, who may not say where he comes from."""
    folder = tmp_path_factory.mktemp("models")
    export = make_tiny_run(tiny_base, folder / "run").export_to(folder / "export")
    server = AppServer(
        tmp_path_factory.mktemp("served"),
        export,
        *("--queue", "1", "--per-minute", "12"),
        environment={"FORWARDED_ALLOW_IPS": PROXY},
    )
    server.wait(seconds=900)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: AppServer, tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("images")
    return Client(server.address, download_files=folder, verbose=False, analytics_enabled=False)


def connect(server: AppServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1])), timeout=30)


def raw(server: AppServer, request: bytes) -> bytes:
    """The answer to exactly these bytes: a client of HTTP would tidy a path up."""
    with connect(server) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(2**16):
            answer += part
        return answer


def get(server: AppServer, path: str) -> bytes:
    return raw(server, f"GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n".encode())


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_leads_out_of_what_it_serves(server: AppServer, route: str) -> None:
    beside_pictures = f"{server.output.parent}/images/../output.txt"  # Gradio does serve what is in images
    for path in (*OUTSIDE, beside_pictures, beside_pictures.replace("..", "%2e%2e")):
        answer = get(server, route.format(path))
        status, _, body = answer.partition(b"\r\n\r\n")
        assert b"root:" not in body, path
        assert b"Ctrl-C stops it" not in body, path  # as output.txt says
        if "deep_link" not in route:  # which is answered with the page
            assert status.split()[1] in (b"400", b"403", b"404", b"422"), (path, answer)


def test_no_answer_names_a_place_of_the_host(server: AppServer) -> None:
    images = f"{server.output.parent}/images"
    paths = [*ANSWERING, *(route.format(path) for route in ROUTES for path in ("x", "%00"))]
    for path in paths:
        answer = get(server, path).decode(errors="replace").replace(images, "")
        for place in (ROOT, server.output.parent, Path.home() / "x", Path(psutil.__file__).parent.parent):
            assert str(place) not in answer, path


def test_no_input_is_a_file_of_the_host_or_of_another_site(server: AppServer) -> None:
    """Gradio takes one for any input, copies it to where it can be fetched, and names the copy."""
    functions = server.get("/config").json()["dependencies"]
    for place in ("/proc/self/environ", str(server.output), "http://192.0.2.2/x"):
        file = {"path": place, "meta": {"_type": "gradio.FileData"}}
        for function in functions:
            asked = {
                "data": [file] * len(function["inputs"]), "fn_index": function["id"], "session_hash": "s",
                "event_data": file,
            }  # fmt: skip
            for route in ("run/predict", "queue/join", f"call/{function['api_name']}"):
                assert httpx.post(f"{server.address}/gradio_api/{route}", json=asked).status_code == 403
    kept = {path.name for path in (server.output.parent / "images").rglob("*")}
    assert not kept & {"environ", server.output.name, "x"}
    assert not server.strangers.exists()


@pytest.mark.parametrize("length", ["known", "unknown"])
def test_a_request_of_more_than_a_history_is_refused_and_not_kept(server: AppServer, length: str) -> None:
    too_much = b'{"data": ["' + b"a" * 8 * MAX_BODY + b'"]}'
    content: Any = too_much if length == "known" else iter([too_much])
    before = psutil.Process(server.process.pid).memory_info().rss
    for path in ("queue/join", "run/generate", "call/generate", "cancel", "reset"):
        answer = httpx.post(f"{server.address}/gradio_api/{path}", content=content, timeout=60)
        content = too_much if length == "known" else iter([too_much])
        assert answer.status_code == 413, path
    assert psutil.Process(server.process.pid).memory_info().rss < before + 2 * MAX_BODY
    assert server.output.stat().st_size < MAX_BODY


def test_headers_without_an_end_end_the_connection(server: AppServer) -> None:
    with contextlib.suppress(ConnectionError):  # where the server closed before it had read them all
        assert raw(server, b"GET / HTTP/1.1\r\nHost: app\r\nX: " + b"a" * 2**20).startswith(b"HTTP/1.1 400")
    assert server.get("/healthz").text == "ok"


@pytest.mark.parametrize("path", ["run/generate", "run/compare"])
def test_there_is_no_way_past_the_queue(server: AppServer, path: str) -> None:
    data = [*REQUEST.values(), 1]
    answer = httpx.post(f"{server.address}/gradio_api/{path}", json={"data": data})
    assert answer.status_code == 404
    assert "join the queue" in answer.text


@pytest.mark.parametrize(
    "header",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Gradio-Server": "http://evil.example"},
        {"X-Forwarded-Proto": "evil.example"},
        {"X-Forwarded-Prefix": "//evil.example"},
        {"Forwarded": "host=evil.example"},
        {"Referer": "http://evil.example"},
    ],
)
def test_a_header_about_the_address_reaches_none_but_who_sent_it(server: AppServer, header: dict[str, str]) -> None:
    server.get("/config", headers=header).raise_for_status()
    page = server.get("/", headers=header)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "evil.example" not in server.get("/config").text
    assert "evil.example" not in server.get("/").text


@pytest.mark.parametrize(
    "header", [{"X-Original-URL": "/healthz"}, {"X-Rewrite-URL": "/healthz"}, {"X-HTTP-Method-Override": "GET"}]
)
def test_a_header_changes_neither_path_nor_method(server: AppServer, header: dict[str, str]) -> None:
    assert httpx.post(f"{server.address}/gradio_api/upload", headers=header, files={"files": b"x"}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "demo.example"])
def test_another_site_s_script_reads_no_answer(server: AppServer, host: str) -> None:
    for path in ("/config", "/", "/gradio_api/info"):
        answer = server.get(path, headers={"Host": host, "Origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_slow_clients_keep_nobody_else_waiting(server: AppServer, client: Client) -> None:
    """Half of them never finish their headers, half never send the body that they announce."""
    starts = [
        b"GET / HTTP/1.1\r\nHost: app\r\nX-Slow: ",
        b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: app\r\nContent-Length: 1000\r\n\r\n{",
    ]
    connections = [connect(server) for _ in range(200)]
    try:
        for i, connection in enumerate(connections):
            connection.sendall(starts[i % 2])
        assert server.get("/healthz").text == "ok"
        assert client.predict(**REQUEST, api_name="/generate")
    finally:
        for connection in connections:
            connection.close()
    assert server.get("/healthz").text == "ok"


def test_who_waits_is_told_the_place_and_who_finds_the_queue_full_is_told_so(client: Client) -> None:
    drawing = client.submit(**MINUTES, api_name="/generate")
    waiting = None
    try:
        while not drawing.outputs():
            assert not drawing.done(), drawing.exception()
            time.sleep(0.05)
        waiting = client.submit(**REQUEST, api_name="/generate")
        while (status := waiting.status()).rank is None:
            assert not waiting.done()
            time.sleep(0.05)
        assert (status.rank, status.queue_size) == (0, 1)
        with pytest.raises(QueueError, match=r"^Queue is full"):
            client.predict(**REQUEST, api_name="/generate")
    finally:
        drawing.cancel()
    assert waiting.result()


def test_an_address_that_a_visitor_makes_up_is_not_another_visitor(server: AppServer, tmp_path: Path) -> None:
    """Last: it takes all drawings of the minute."""
    clients = [
        Client(
            server.address,
            download_files=tmp_path,
            verbose=False,
            analytics_enabled=False,
            headers={"X-Forwarded-For": f"203.0.113.{i}"},
        )
        for i in range(2)
    ]
    with pytest.raises(AppError, match="the limit here: try again in"):
        for i in range(13):
            clients[i % 2].predict(**REQUEST | {"steps": 1}, api_name="/generate")
