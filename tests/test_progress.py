"""Progress: one live line on a terminal, complete lines in a log."""

import contextlib
import os
import pty
import sys
import termios

import pytest
import torch

from finetune import progress
from finetune.progress import peak_memory, progress_bar

POSTFIX = "loss 0.1250, lr 1.0e-05, 12.3 img/s, 19.5 GiB"


def run(steps: int, shown: bool = True) -> None:
    with progress_bar("train", 2, steps, shown) as bar:
        for _ in range(steps - 2):
            bar.set_postfix_str(POSTFIX, refresh=False)
            bar.update()


def test_log_gets_the_first_and_the_last_step(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    run(10)
    assert capsys.readouterr().err == ""
    assert [message[:10] for message in caplog.messages] == ["train 2/10", "train 10/1"]
    assert caplog.messages[-1].endswith(f"left, {POSTFIX}")


def test_log_gets_a_complete_line_per_interval(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "LOGGED", 0.0)
    run(6)
    assert len(caplog.messages) > 3
    assert not any("\r" in message or "\n" in message for message in caplog.messages)


def test_terminal_gets_one_line_of_80_columns_that_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        run(30_000)
    written = b""
    with contextlib.suppress(OSError):  # Linux reports the closed end of a pty as an error
        while part := os.read(reader, 100_000):
            written += part
    os.close(reader)
    shown = written.decode()
    assert "30000/30000" in shown
    assert f"00:00 left, {POSTFIX}" in shown
    assert shown.strip().count("\n") == 0


def test_hidden_bar_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(10, shown=False)
    assert caplog.messages == []


def test_peak_memory_is_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.05 < peak_memory(torch.device("cpu")) < 100
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**30)
    assert peak_memory(torch.device("cuda")) == 3.0
