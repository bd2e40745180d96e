"""The page on an address of this machine."""

import os
from dataclasses import dataclass

import gradio as gr
from starlette.middleware import Middleware

from app.security import Guard
from app.theme import CSS, make_theme
from finetune.errors import InputError

USER, PASSWORD = "APP_USER", "APP_PASSWORD"


@dataclass(frozen=True)
class Address:
    host: str
    port: int


def serve(page: gr.Blocks, address: Address) -> None:
    """Until Ctrl-C. Raises InputError if the address cannot be used."""
    auth = credentials()
    if auth is None and address.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"note: whoever reaches {address.host} can draw; set {USER} and {PASSWORD} to ask for a password")
    try:
        page.launch(
            server_name=address.host,
            server_port=address.port,
            auth=auth,
            share=False,
            ssr_mode=False,
            strict_cors=True,
            enable_monitoring=False,
            run_history=False,  # the page has a history of its own
            footer_links=["api"],
            max_file_size=1,  # byte: nothing is uploaded
            app_kwargs={"middleware": [Middleware(Guard)]},
            theme=make_theme(),
            css_paths=CSS,
        )
    except (OSError, OverflowError) as error:
        raise InputError(f"port {address.port} cannot be used: {error}; choose another with --port") from None


def credentials() -> tuple[str, str] | None:
    """The user and password that the environment sets; raises InputError where it sets one of them alone."""
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if bool(user) != bool(password):
        raise InputError(f"{USER if password else PASSWORD} is not set: set both, or neither for a page without login")
    return (user, password) if user else None
