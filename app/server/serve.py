"""Serve the page over HTTP."""

import errno
import logging
import os
import socket
from asyncio import CancelledError
from dataclasses import dataclass

import gradio as gr
import uvicorn
from fastapi import FastAPI

from app.server.guard import QueueStatus, RequestFilter
from app.ui.page import CSS, make_theme
from finetune.errors import InputError

USER, PASSWORD = "APP_USER", "APP_PASSWORD"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHUTDOWN_TIMEOUT = 3  # seconds that open connections get after Ctrl-C


@dataclass(frozen=True)
class Address:
    host: str
    port: int


def serve(page: gr.Blocks, address: Address) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises InputError if the address cannot be used.

    page.launch() is no option: it gives up if the first response takes longer than three seconds.
    """
    auth = credentials()
    with _listen(address) as listening:
        app = make_app(page, auth)
        print(f"{_url(address.host, listening.getsockname()[1])} (Ctrl-C stops it)", flush=True)
        if auth is None and address.host not in LOOPBACK:
            print(
                f"note: no login; anyone who reaches {address.host} can use it; set {USER} and {PASSWORD}", flush=True
            )
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT)
        logging.getLogger("uvicorn.error").addFilter(_is_not_cancellation)
        uvicorn.Server(config).run(sockets=[listening])


def make_app(page: gr.Blocks, auth: tuple[str, str] | None) -> FastAPI:
    """Mount the page behind the request filter. `auth` is the required user and password, or None for no login."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(RequestFilter, queue=QueueStatus(page))
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=auth,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,  # the page has its own history
        footer_links=["api"],
        max_file_size=1,  # byte: no uploads
        theme=make_theme(),
        css_paths=CSS,
    )
    page.has_launched = True  # launch() would set it; until then Gradio does not check file paths in requests
    return app


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Log filter: an open page's connection is cancelled at shutdown, which deserves no traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


def credentials() -> tuple[str, str] | None:
    """User and password from the environment, or None. Raises InputError if only one of them is set."""
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if bool(user) != bool(password):
        raise InputError(f"{USER if password else PASSWORD} is not set; set both for a login, or neither")
    return (user, password) if user else None


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(address: Address) -> socket.socket:
    """Listen on IPv6 if the host is an IPv6 address, else on IPv4, so that `localhost` is the same everywhere."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        (*_, resolved), *_ = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
        return socket.create_server(resolved, family=family)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
            raise InputError(f"--host {address.host}: not an address of this machine; use 127.0.0.1") from None
        raise InputError(f"port {address.port} cannot be used: {error}; choose a different one with --port") from None
