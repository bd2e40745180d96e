"""What stands between the network and Gradio: nothing large, slow or foreign comes in; an address to ask for health."""

import asyncio
import json
import re
from typing import Any

MAX_BODY = 4 * 2**20  # bytes; a browser's whole history takes less than half of it
MAX_TEXT = 2**16  # characters; a thumbnail of the history takes less
PATIENCE = 30.0  # seconds that a request may take to arrive
# all that the page and Gradio's clients send here: an upload is not among it, the browser itself reads PNG files
SENDING = re.compile(r"POST (.*/)?(login|gradio_api/(queue/join|cancel|reset|(run|call|call/v2)/\w+))")
FETCHING = re.compile(r"/file[=/]https?:", re.IGNORECASE)  # Gradio would ask another site for it
HEALTH = "/healthz"
# Gradio's page evaluates templates and styles of its own; pictures are data and blob addresses besides files
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


class Guard:
    """ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if path == HEALTH:
            await _answer(send, 200, b"ok")
        elif scope["method"] not in ("GET", "HEAD") and not SENDING.fullmatch(f"{scope['method']} {path}"):
            await _answer(send, 403, b"nothing is taken here")
        elif FETCHING.search(path):
            await _answer(send, 403, b"no other site is asked")
        elif not path.isprintable():
            await _answer(send, 400, b"no such address")
        else:
            try:
                async with asyncio.timeout(PATIENCE):
                    body = await _body(receive)
            except TimeoutError:
                await _answer(send, 408, b"the request took too long to arrive")
            else:
                await self._pass_on(scope, body, receive, send)

    async def _pass_on(self, scope: Any, body: bytes | None, receive: Any, send: Any) -> None:
        if body is None:
            await _answer(send, 413, f"a request has at most {MAX_BODY:,} bytes".encode())
            return
        if refusal := _refusal(body):
            await _answer(send, *refusal)
            return
        waiting = [{"type": "http.request", "body": body}]

        async def receive_again() -> Any:
            return waiting.pop() if waiting else await receive()  # then: that the visitor has gone

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        await self.app(scope, receive_again, send_with_headers)


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


def _refusal(body: bytes) -> tuple[int, bytes] | None:
    """Status and reason, for JSON with a long text or with what Gradio takes for a file.

    Whatever names its `_type` Gradio would copy from its place on this machine, or fetch from another site, to where
    the sender can read it.
    """
    try:
        pending = [json.loads(body)]
    except (ValueError, RecursionError):
        return None  # a form, or what Gradio refuses itself
    while pending:
        value = pending.pop()
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return 413, f"a text has at most {MAX_TEXT:,} characters".encode()
        if isinstance(value, dict):
            if "_type" in value:
                return 403, b"files are not taken"
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return None


async def _answer(send: Any, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
