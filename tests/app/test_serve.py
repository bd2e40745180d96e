"""app.server.serve: where the page listens, and what is at fault where it cannot."""

import socket

import pytest

from app.server.serve import Address, _listen, _url
from finetune.errors import InputError


@pytest.mark.parametrize("host", ["no.such.invalid", "192.0.2.1", "[::1]", "a" * 70, "ü" * 70])
def test_a_host_that_is_not_this_machine_is_named(host: str) -> None:
    """192.0.2.1 is nobody's, by RFC 5737, and an address of 70 letters between two dots is none."""
    with pytest.raises(InputError, match="no address of this machine") as refused:
        _listen(Address(host, 0))
    assert str(refused.value).startswith(f"--host {host}: ")


def test_a_port_in_use_is_named_as_such() -> None:
    with _listen(Address("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} cannot be used.*choose another with --port"):
            _listen(Address("127.0.0.1", port))


def test_localhost_is_ipv4_whatever_the_machine_puts_first() -> None:
    with _listen(Address("localhost", 0)) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_an_ipv6_address_is_listened_on_and_shown_as_a_browser_wants_it() -> None:
    try:
        listening = _listen(Address("::1", 0))
    except InputError:
        pytest.skip("no IPv6 here")
    with listening:
        host, port, *_ = listening.getsockname()
        socket.create_connection((host, port)).close()
        assert _url(host, port) == f"http://[::1]:{port}"


def test_other_addresses_are_shown_as_they_are() -> None:
    assert _url("127.0.0.1", 7860) == "http://127.0.0.1:7860"
