"""One live line on a terminal, whole lines elsewhere."""

import contextlib
import os
import pty
import sys
import termios

import pytest
import torch

from finetune import progress
from finetune.progress import peak_memory, progress_bar

SHOWN = "loss 0.1250, lr 1.0e-05, 12.3 img/s, 19.5 GiB"


def run(steps: int, shown: bool = True) -> None:
    with progress_bar("train", 2, steps, shown) as bar:
        for _ in range(steps - 2):
            bar.set_postfix_str(SHOWN, refresh=False)
            bar.update()


def test_a_log_gets_lines_of_their_own(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level("INFO")
    run(10)
    assert capsys.readouterr().err == ""
    assert [message[:10] for message in caplog.messages] == ["train 2/10", "train 10/1"], "quiet: the start and the end"
    assert caplog.messages[-1].endswith(f"left, {SHOWN}")


def test_a_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "LOGGED", 0.0)
    run(6)
    assert len(caplog.messages) > 3
    assert not any("\r" in message or "\n" in message for message in caplog.messages)


def test_a_terminal_gets_one_line_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        run(30_000)
    written = b""
    with contextlib.suppress(OSError):  # once all is read: the other end is closed
        while part := os.read(ours, 100_000):
            written += part
    os.close(ours)
    shown = written.decode()
    assert "30000/30000" in shown
    assert f"00:00 left, {SHOWN}" in shown, "whole on 80 columns"
    assert shown.strip().count("\n") == 0


def test_other_processes_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(10, shown=False)
    assert caplog.messages == []


def test_memory_is_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.05 < peak_memory(torch.device("cpu")) < 100
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**30)
    assert peak_memory(torch.device("cuda")) == 3.0, "the GPU's, where there is one"
