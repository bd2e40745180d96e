"""ASGI middleware that rejects unwanted requests before Gradio sees them, and a health check."""

import asyncio
import json
import re
import time
from typing import Any

import gradio as gr
from fastapi import HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse

from app.limits import RateLimit
from finetune.errors import InputError

MAX_BODY = 4 * 2**20  # bytes; a browser's full history takes less than half of it
MAX_COMMAS = 10_000  # bounds the number of JSON values, which take many times their size in memory
MAX_TEXT = 2**16  # characters; more than a thumbnail in the history
MAX_SESSION_HASH = 64  # characters
LOGINS_PER_MINUTE = 10  # per address
BODY_TIMEOUT = 30.0  # seconds
# Everything that the page and Gradio's clients POST. Uploads are not among them: the browser itself reads PNG files.
ALLOWED_POSTS = re.compile(r"POST (.*/)?(login|gradio_api/(queue/join|cancel|reset|(run|call|call/v2)/\w+))")
QUEUED_POSTS = re.compile(r"POST .*/gradio_api/(queue/join|call/.*)")
# They store a user's state on disk, hand out login tokens, restart the queue, or serve developers.
BLOCKED = re.compile(r"/gradio_api/(deep_link|token|startup-events|dev|custom_component)\b")
REMOTE_FILE = re.compile(r"/file[=/]https?:", re.IGNORECASE)  # Gradio would fetch it from the other site
HEALTH = "/healthz"
# Gradio's page evaluates templates, uses inline styles, and shows images from data: and blob: URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class QueueStatus:
    """The state of the page's queue. Also patches a Gradio bug that stops the queue."""

    def __init__(self, page: gr.Blocks) -> None:
        self._queue = page._queue
        send_message = self._queue.send_message

        def send_if_session_exists(event: Any, message: Any) -> None:
            """Drop messages for expired sessions, whose KeyError would end the queue's loop for everyone."""
            if event.session_hash in self._queue.pending_messages_per_session:
                send_message(event, message)

        self._queue.send_message = send_if_session_exists

    def is_running(self) -> bool:
        return not self._queue.stopped

    def is_full_for(self, host: str) -> bool:
        """Whether this address already holds half of the queue, the most that one address may hold."""
        queues = self._queue.event_queue_per_concurrency_id.values()
        held = sum(_event_host(event.request) == host for queue in queues for event in queue.queue)
        return held >= max(1, (self._queue.max_size or 0) // 2)


def _event_host(request: Any) -> str | None:
    return request.client.host if request.client else None


class RequestFilter:
    """The middleware. Errors have FastAPI's form, which Gradio's page and clients read."""

    def __init__(self, app: Any, queue: QueueStatus) -> None:
        self.app = app
        self._queue = queue
        self._logins = RateLimit(LOGINS_PER_MINUTE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if path == HEALTH:
            text, status = ("ok", 200) if self._queue.is_running() else ("the queue has stopped", 503)
            await PlainTextResponse(text, status, HEADERS)(scope, receive, send)
            return
        try:
            _check_address(scope, path)
            self._check_client(scope, path)
            body = await _read_body(receive)
            _check_body(body)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code, HEADERS)(scope, receive, send)
            return
        if path.endswith("/logout"):  # all users share one name: log out this session only
            scope = {**scope, "query_string": b"all_session=false"}
        await self.app(scope, _replay(body, receive), _with_headers(send))

    def _check_client(self, scope: Any, path: str) -> None:
        host = scope["client"][0] if scope["client"] else "unknown"
        if scope["method"] == "POST" and path.endswith("/login"):
            try:
                self._logins.record(host, time.monotonic())
            except InputError:
                raise HTTPException(429, f"at most {LOGINS_PER_MINUTE} logins per minute") from None
        if QUEUED_POSTS.fullmatch(f"{scope['method']} {path}") and self._queue.is_full_for(host):
            raise HTTPException(503, "Queue is full for this address; wait for your earlier requests.")


def _check_address(scope: Any, path: str) -> None:
    if not path.isprintable():
        raise HTTPException(400, "invalid path")
    if scope["method"] not in ("GET", "HEAD") and not ALLOWED_POSTS.fullmatch(f"{scope['method']} {path}"):
        raise HTTPException(403, "this path accepts no data")
    if BLOCKED.search(path):
        raise HTTPException(403, "this path is disabled")
    if REMOTE_FILE.search(path):
        raise HTTPException(403, "files of other sites are not fetched")
    headers = dict(scope["headers"])
    is_link = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
    if headers.get(b"sec-fetch-site") == b"cross-site" and not is_link:
        raise HTTPException(403, "other sites may only link here")


async def _read_body(receive: Any) -> bytes:
    """Read the complete body within BODY_TIMEOUT.

    A body that is too large is read to its end but not kept, because a client that is still sending reads no response.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HTTPException(400, "the client disconnected")
                if len(body) <= MAX_BODY:
                    body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise HTTPException(408, "the request took too long to arrive") from None
    if len(body) > MAX_BODY:
        raise HTTPException(413, f"the request is larger than {MAX_BODY:,} bytes")
    return bytes(body)


def _check_body(body: bytes) -> None:
    """Reject JSON with too many values, with a long string, or with a file reference.

    Gradio would copy any dict with a `_type` key, from this machine or another site, to where the sender can read it.
    """
    if body.count(b",") > MAX_COMMAS:
        raise HTTPException(413, f"the request has more than {MAX_COMMAS:,} values")
    try:
        pending = [json.loads(body)]
    except (ValueError, RecursionError):
        return  # a form, or JSON that Gradio rejects itself
    while pending:
        value = pending.pop()
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise HTTPException(413, f"a string is longer than {MAX_TEXT:,} characters")
        if isinstance(value, dict):
            if "_type" in value:
                raise HTTPException(403, "files are not accepted")
            session = value.get("session_hash")
            if session is not None and not (isinstance(session, str) and 0 < len(session) <= MAX_SESSION_HASH):
                raise HTTPException(400, f"session_hash must have 1 to {MAX_SESSION_HASH} characters")
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _replay(body: bytes, receive: Any) -> Any:
    """A `receive` that returns the body first, then waits for the client to disconnect."""
    messages = [{"type": "http.request", "body": body}]

    async def receive_again() -> Any:
        return messages.pop() if messages else await receive()

    return receive_again


def _with_headers(send: Any) -> Any:
    """A `send` that adds HEADERS and drops the CORS headers, with which Gradio lets any site read its responses."""

    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            kept = [each for each in message.get("headers", []) if not each[0].startswith(b"access-control-")]
            message = {**message, "headers": [*kept, *RAW_HEADERS]}
        await send(message)

    return send_with_headers
