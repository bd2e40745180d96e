"""The page on an address of this machine."""

import errno
import logging
import os
import socket
from asyncio import CancelledError
from dataclasses import dataclass

import gradio as gr
import uvicorn
from fastapi import FastAPI

from app.server.guard import Guard, Waiting
from app.ui.page import CSS, make_theme
from finetune.errors import InputError

USER, PASSWORD = "APP_USER", "APP_PASSWORD"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 3  # seconds that open connections have after Ctrl-C


@dataclass(frozen=True)
class Address:
    host: str
    port: int


def serve(page: gr.Blocks, address: Address) -> None:
    """Until Ctrl-C or SIGTERM. Raises InputError if the address cannot be used.

    Not by page.launch(), which gives up where its first page takes longer than three seconds.
    """
    auth = credentials()
    with _listen(address) as listening:
        app = make_app(page, auth)
        print(f"{_url(address.host, listening.getsockname()[1])} (Ctrl-C stops it)", flush=True)
        if auth is None and address.host not in LOOPBACK:
            print(
                f"note: whoever reaches {address.host} can draw; {USER} and {PASSWORD} ask for a password", flush=True
            )
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)
        logging.getLogger("uvicorn.error").addFilter(_is_no_goodbye)
        uvicorn.Server(config).run(sockets=[listening])


def make_app(page: gr.Blocks, auth: tuple[str, str] | None) -> FastAPI:
    """auth: user and password that it asks for."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(Guard, waiting=Waiting(page))
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=auth,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,  # the page has a history of its own
        footer_links=["api"],
        max_file_size=1,  # byte: nothing is uploaded
        theme=make_theme(),
        css_paths=CSS,
    )
    page.has_launched = True  # as launch() notes it: until then Gradio checks no path that a request names
    return app


def _is_no_goodbye(record: logging.LogRecord) -> bool:
    """An open page keeps a connection, which ends with the server: no error, and no traceback on Ctrl-C."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


def credentials() -> tuple[str, str] | None:
    """The user and password that the environment sets; raises InputError where it sets one of them alone."""
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if bool(user) != bool(password):
        raise InputError(f"{USER if password else PASSWORD} is not set: set both, or neither for a page without login")
    return (user, password) if user else None


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(address: Address) -> socket.socket:
    """IPv6 where the host is written so, else IPv4: what `localhost` means must not depend on the machine."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        (*_, place), *_ = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
        return socket.create_server(place, family=family)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
            raise InputError(f"--host {address.host}: no address of this machine, as 127.0.0.1 is one") from None
        raise InputError(f"port {address.port} cannot be used: {error}; choose another with --port") from None
