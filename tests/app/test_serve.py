"""app.server.serve: listening addresses and their errors."""

import socket

import pytest

from app.server.serve import Address, _listen, _url, credentials
from finetune.errors import InputError


@pytest.mark.parametrize("host", ["no.such.invalid", "192.0.2.1", "[::1]", "a" * 70, "ü" * 70])
def test_a_host_that_is_not_this_machine_is_reported(host: str) -> None:
    """192.0.2.1 is reserved by RFC 5737, and a host name label has at most 63 characters."""
    with pytest.raises(InputError, match="not an address of this machine") as refused:
        _listen(Address(host, 0))
    assert str(refused.value).startswith(f"--host {host}: ")


def test_a_port_in_use_is_reported() -> None:
    with _listen(Address("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} cannot be used.*choose a different one with --port"):
            _listen(Address("127.0.0.1", port))


def test_localhost_is_ipv4() -> None:
    with _listen(Address("localhost", 0)) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
    assert _url("127.0.0.1", 7860) == "http://127.0.0.1:7860"


def test_an_ipv6_address_is_in_brackets_in_the_url() -> None:
    try:
        listening = _listen(Address("::1", 0))
    except InputError:
        pytest.skip("no IPv6")
    with listening:
        host, port, *_ = listening.getsockname()
        socket.create_connection((host, port)).close()
        assert _url(host, port) == f"http://[::1]:{port}"


@pytest.mark.parametrize(("given", "missing"), [("APP_USER", "APP_PASSWORD"), ("APP_PASSWORD", "APP_USER")])
def test_a_user_without_a_password_is_an_error_and_vice_versa(
    monkeypatch: pytest.MonkeyPatch, given: str, missing: str
) -> None:
    for name in ("APP_USER", "APP_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    assert credentials() is None
    monkeypatch.setenv(given, "x")
    with pytest.raises(InputError, match=f"{missing} is not set"):
        credentials()
