"""A web server on loopback with injectable faults."""

import email.utils
import hashlib
import http.server
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """How one response differs from a good one."""

    status: int | None = None  # instead of 200 or 206, without a body
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # close the connection after that many bytes of the body
    extra: int = 0  # bytes added to Content-Length
    hang: bool = False  # send nothing after the body until the site closes
    after: Callable[[], bool] = lambda: True  # delay the response until this is true


@dataclass
class Site:
    """Files by path, and how they are served. Each request uses up one of its path's `faults`."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range header
    headers: list[dict[str, str]] = field(default_factory=list)  # of every request
    ranges: bool = True
    if_range: bool = True
    validators: tuple[str, ...] = ("ETag", "Last-Modified")
    announces_length: bool = True
    closing: threading.Event = field(default_factory=threading.Event)

    def requested_ranges(self) -> list[str | None]:
        return [requested for _, requested in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.requests.append((self.path, self.headers.get("Range")))
        site.headers.append(dict(self.headers))
        faults = site.faults.get(self.path)
        fault = faults.pop(0) if faults else Fault()
        while not fault.after() and not site.closing.wait(0.001):
            pass
        content = site.files.get(self.path)
        status = fault.status or (200 if content is not None else 404)
        if status != 200 or content is None:
            self.respond(status, fault.headers | {"Content-Length": "0"})
            return
        known = {name: value for name, value in validators(content).items() if name in site.validators}
        start = self.start(known)
        if start >= len(content) > 0:
            self.respond(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        body = content[start:]
        headers = known | ({"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {})
        headers |= {"Content-Length": str(len(body) + fault.extra)} if site.announces_length else {}
        self.respond(206 if start else 200, headers | fault.headers)
        self.wfile.write(body[: fault.cut])
        if fault.hang:
            site.closing.wait()

    def start(self, known: dict[str, str]) -> int:
        requested, condition = self.headers.get("Range"), self.headers.get("If-Range")
        changed = self.site.if_range and condition is not None and condition not in known.values()
        if requested is None or changed or not self.site.ranges:
            return 0
        return int(requested.removeprefix("bytes=").removesuffix("-"))

    def respond(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def validators(content: bytes) -> dict[str, str]:
    modified = time.mktime((2020, 1, 1, 0, 0, 0, 0, 0, 0)) + zlib.crc32(content) % 100_000_000
    return {
        "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
        "Last-Modified": email.utils.formatdate(modified, usegmt=True),
    }


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients disconnect early in these tests."""


@contextmanager
def serve() -> Iterator[Site]:
    handler = type("SiteHandler", (Handler,), {})
    server = Server(("127.0.0.1", 0), handler)
    handler.site = site = Site(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield site
    site.closing.set()
    server.shutdown()
    server.server_close()
