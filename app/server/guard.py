"""What stands between the network and Gradio: nothing large, slow or foreign comes in; an address to ask for health."""

import asyncio
import json
import re
import time
from typing import Any

import gradio as gr

from app.limits import RateLimit
from finetune.errors import InputError

MAX_BODY = 4 * 2**20  # bytes; a browser's whole history takes less than half of it
MAX_COMMAS = 10_000  # in JSON, where small values take many times their size in memory; a history has hundreds
MAX_TEXT = 2**16  # characters; a thumbnail of the history takes less
MAX_SESSION = 64  # characters of the name that a page gives itself
LOGINS = 10  # a minute and address
PATIENCE = 30.0  # seconds that a request may take to arrive
# all that the page and Gradio's clients send here: an upload is not among it, the browser itself reads PNG files
SENDING = re.compile(r"POST (.*/)?(login|gradio_api/(queue/join|cancel|reset|(run|call|call/v2)/\w+))")
JOINING = re.compile(r"POST .*/gradio_api/(queue/join|call/.*)")
# a visitor's state on the disk, a login's token for scripts, what restarts the queue, what is for developers
CLOSED = re.compile(r"/gradio_api/(deep_link|token|startup-events|dev|custom_component)\b")
FETCHING = re.compile(r"/file[=/]https?:", re.IGNORECASE)  # Gradio would ask another site for it
HEALTH = "/healthz"
# Gradio's page evaluates templates and styles of its own; images are data and blob addresses besides files
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


Refusal = tuple[int, str]  # status and reason


class Waiting:
    def __init__(self, page: gr.Blocks) -> None:
        self._queue = page._queue
        send = self._queue.send_message

        def send_to_who_is_there(event: Any, message: Any) -> None:
            """A message for a session that Gradio keeps no more would end the loop that serves all the others."""
            if event.session_hash in self._queue.pending_messages_per_session:
                send(event, message)

        self._queue.send_message = send_to_who_is_there

    def works(self) -> bool:
        return not self._queue.stopped

    def is_full_for(self, host: str) -> bool:
        """One address holds half of the places at most, so that others find one."""
        queues = self._queue.event_queue_per_concurrency_id.values()
        held = sum(_host_of(event.request) == host for queue in queues for event in queue.queue)
        return held >= max(1, (self._queue.max_size or 0) // 2)


def _host_of(request: Any) -> str | None:
    return request.client.host if request.client else None


class Guard:
    """ASGI middleware."""

    def __init__(self, app: Any, waiting: Waiting) -> None:
        self.app = app
        self._waiting = waiting
        self._logins = RateLimit(LOGINS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if path == HEALTH:
            await _answer(send, *((200, "ok") if self._waiting.works() else (503, "the queue has stopped")))
        elif refusal := _refused_address(scope, path) or self._refused_visitor(scope, path):
            await _refuse(send, *refusal)
        else:
            try:
                async with asyncio.timeout(PATIENCE):
                    body = await _body(receive)
            except TimeoutError:
                await _refuse(send, 408, "the request took too long to arrive")
            else:
                await self._pass_on(_of_one_session(scope, path), body, receive, send)

    def _refused_visitor(self, scope: Any, path: str) -> Refusal | None:
        host = scope["client"][0] if scope["client"] else "unknown"
        asked = f"{scope['method']} {path}"
        if asked.startswith("POST") and asked.endswith("/login"):
            try:
                self._logins.count(host, time.monotonic())
            except InputError:
                return 429, f"{LOGINS} logins a minute are allowed"
        if JOINING.fullmatch(asked) and self._waiting.is_full_for(host):
            return 503, "Queue is full for this address: wait for what it has asked for."
        return None

    async def _pass_on(self, scope: Any, body: bytes | None, receive: Any, send: Any) -> None:
        if body is None:
            await _refuse(send, 413, f"a request has at most {MAX_BODY:,} bytes")
            return
        if refusal := _refused_body(body):
            await _refuse(send, *refusal)
            return
        waiting = [{"type": "http.request", "body": body}]

        async def receive_again() -> Any:
            return waiting.pop() if waiting else await receive()  # then: that the visitor has gone

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                # Gradio lets the scripts of any site read its answers, with the visitor's login
                own = [each for each in message.get("headers", []) if not each[0].startswith(b"access-control-")]
                message = {**message, "headers": [*own, *HEADERS]}
            await send(message)

        await self.app(scope, receive_again, send_with_headers)


def _refused_address(scope: Any, path: str) -> Refusal | None:
    if not path.isprintable():
        return 400, "no such address"
    if scope["method"] not in ("GET", "HEAD") and not SENDING.fullmatch(f"{scope['method']} {path}"):
        return 403, "nothing is taken here"
    if CLOSED.search(path):
        return 403, "not served here"
    if FETCHING.search(path):
        return 403, "no other site is asked"
    headers = dict(scope["headers"])
    followed = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
    if headers.get(b"sec-fetch-site") == b"cross-site" and not followed:
        return 403, "another site may link here, and no more"
    return None


def _of_one_session(scope: Any, path: str) -> Any:
    """Who logs out does so alone: all have the same name."""
    return {**scope, "query_string": b"all_session=false"} if path.endswith("/logout") else scope


async def _body(receive: Any) -> bytes | None:
    """All of it; None where it is cut off, or too large: read to its end then, for who still sends hears no answer."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None  # nobody hears the refusal
        if len(body) <= MAX_BODY:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body) if len(body) <= MAX_BODY else None


def _refused_body(body: bytes) -> Refusal | None:
    """JSON of too many values, with a long text or with what Gradio takes for a file.

    Whatever names its `_type` Gradio would copy from its place on this machine, or fetch from another site, to where
    the sender can read it.
    """
    if body.count(b",") > MAX_COMMAS:
        return 413, f"a request has at most {MAX_COMMAS:,} values"
    try:
        pending = [json.loads(body)]
    except (ValueError, RecursionError):
        return None  # a form, or what Gradio refuses itself
    while pending:
        value = pending.pop()
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return 413, f"a text has at most {MAX_TEXT:,} characters"
        if isinstance(value, dict):
            if "_type" in value:
                return 403, "files are not taken"
            session = value.get("session_hash")
            if session is not None and not (isinstance(session, str) and 0 < len(session) <= MAX_SESSION):
                return 400, f"a session_hash has 1 to {MAX_SESSION} characters"
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return None


async def _refuse(send: Any, status: int, reason: str) -> None:
    """In FastAPI's form, which Gradio's page and clients read."""
    await _answer(send, status, json.dumps({"detail": reason}), "application/json")


async def _answer(send: Any, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
    headers = [(b"content-type", kind.encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
