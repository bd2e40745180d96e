"""What stands between the network and Gradio: nothing large, slow or foreign comes in; an address to ask for health."""

import asyncio
from typing import Any

MAX_BODY = 4 * 2**20  # bytes; a browser's whole history takes less than half of it
PATIENCE = 30.0  # seconds that a request may take to arrive
UPLOADS = "/upload"  # the page reads PNG files itself, in the browser
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
        elif path.endswith(UPLOADS) and scope["method"] != "GET":
            await _answer(send, 403, b"uploads are off")
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


async def _answer(send: Any, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
