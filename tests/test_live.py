"""The dashboard of `evonnx evolve`: any size, resized while it runs, without colours, on pipes."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_program import FAULT, row
from rich.console import Console

from evonnx.adapter import Progress
from evonnx.cli._board import MOST_LOSSES, Board, Picture, Training, duration, sparkline
from evonnx.cli._live import LiveObserver

PROGRAM = Path(__file__).parent / "live_program.py"


@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=300),
    width=st.integers(0, 60),
    ascii_only=st.booleans(),
)
def test_a_sparkline_is_as_wide_as_it_may_be(values: list[float], width: int, ascii_only: bool) -> None:
    line = sparkline(values, width, ascii_only)
    assert len(line) == min(width, len(values))
    assert line.isascii() or not ascii_only


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([3, 3, 3], "▁▁▁"),
        ([1, float("nan"), 0], "█!▁"),
        ([float("inf")], "!"),
        ([8, 8, 0, 0], "█▁"),
    ],
)
def test_a_sparkline_shows_the_curve(values: list[float], line: str) -> None:
    assert sparkline(values, 8 if len(values) != 4 else 2) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (65.4, "0:01:05"), (36_000, "10:00:00"), (None, "-:--:--"), (float("nan"), "-:--:--")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_long_trainings_keep_few_losses_and_their_curve() -> None:
    training = Training(Progress(1, 1, 0, 5000, 0.0), 0.0)
    for step in range(1, 5001):
        training.heard(Progress(1, 1, step, 5000, float(step)))
    assert len(training.losses) <= MOST_LOSSES
    assert training.losses == sorted(training.losses)
    assert training.losses[0] < 100
    assert training.losses[-1] > 4900


def test_what_is_left_follows_from_the_pace() -> None:
    training = Training(Progress(2, 4, 5, 10, 0.1), 100.0)
    assert training.done == pytest.approx(15 / 40)
    assert training.left(130.0) == pytest.approx(50.0)
    board = Board(generations=5, rows=[row(1), row(2)], took=[10.0, 20.0])
    assert board.left() == pytest.approx(45.0)
    assert Board(generations=5).left() is None


def a_board(rows: int, offspring: list[int | None]) -> Board:
    board = Board(title="model: " + "a task " * 20, generations=20, stage="gen 07: screening 3/16")
    board.rows = [row(number) for number in range(1, rows + 1)]
    board.notes, board.faults = ["a note " * 30] * 3, ["a fault"] * 2
    for number in offspring:
        board.trainings[number] = Training(Progress(1, 2, 3, 10, 0.25), 0.0)
        board.trainings[number].heard(Progress(1, 2, 4, 10, 0.2))
    return board


def drawn(board: Board, width: int, height: int = 24) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Picture(board, 5.0, 60.0))
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


@given(
    rows=st.integers(0, 40),
    width=st.integers(12, 200),
    height=st.integers(14, 60),
    offspring=st.sampled_from([[], [None], [1, 2]]),
)
def test_a_picture_fits_any_terminal(rows: int, width: int, height: int, offspring: list[int | None]) -> None:
    lines = drawn(a_board(rows, offspring), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("width", "there", "missing"),
    [
        (120, ["C-E", "retrained", "overhead", "to go", "━"], []),
        (50, ["A-E", "validation", "kB", "to go", "━"], ["overhead"]),
        (24, ["gen", "A-E", "to go"], ["kB", "so far", "━"]),
    ],
)
def test_narrow_terminals_get_fewer_columns(width: int, there: list[str], missing: list[str]) -> None:
    text = "\n".join(drawn(a_board(3, [None]), width))
    assert [word for word in there if word not in text] == []
    assert [word for word in missing if word in text] == []


def test_in_a_low_terminal_the_newest_generations_are_shown() -> None:
    text = "\n".join(drawn(a_board(30, [None]), 80, 14))
    assert re.search(r"^ *30 ", text, re.MULTILINE)
    assert not re.search(r"^ *20 ", text, re.MULTILINE)
    assert "gen 07: screening 3/16" in text


def test_when_it_is_over_everything_is_left_on_the_screen() -> None:
    board = a_board(30, [None])
    board.finished = True
    text = "\n".join(drawn(board, 80, 14))
    assert len(re.findall(r"^ *\d\d ", text, re.MULTILINE)) == 30
    assert text.count("a fault") == 2
    assert "epoch" not in text


def test_resumed_generations_do_not_count_as_pace() -> None:
    now = [0.0]
    observer = LiveObserver(Console(file=io.StringIO()), clock=lambda: now[0])
    observer.started("t", 4, [])
    observer.generation_done(row(1))
    observer.stage(2, "sampling")
    now[0] = 30.0
    observer.generation_done(row(2))
    assert observer.board.took == [30.0]
    assert observer.board.left() == pytest.approx(60.0)


def test_offspring_that_are_trained_at_once_have_a_bar_each() -> None:
    class Numbered:
        epoch, epochs, step, steps, loss = 1, 2, 3, 10, 0.5

        def __init__(self, offspring: int) -> None:
            self.offspring = offspring

    observer = LiveObserver(Console(file=io.StringIO()))
    for number in (1, 2, 1):
        news: Any = Numbered(number)
        observer.training(1, news)
        observer.stage(1, f"offspring {number}: retraining")
    assert sorted(observer.board.trainings) == [1, 2]
    assert sum("epoch 1/2" in line for line in drawn(observer.board, 80)) == 2
    observer.stage(1, "offspring 1: raised")
    assert sorted(observer.board.trainings) == [2]
    observer.stage(1, "selecting")
    assert not observer.board.trainings


PLAIN = [
    "lenet5.onnx: classification [of digits]",
    "  Task from lenet5.toml.",
    "gen 01: sampling",
    "gen 01: A-E 1.50x, C-E 1.20x, validation 0.9790, 1700 kB, retrained 12 s, overhead 3.4 s",
    "gen 02: sampling",
    "gen 02: A-E 2.25x, C-E 1.44x, validation 0.9780, 850 kB, retrained 12 s, overhead 3.4 s",
    "gen 03: retraining",
    "  A late remark.",
    "gen 03: A-E 3.38x, C-E 1.73x, validation 0.9770, 567 kB, retrained 12 s, overhead 3.4 s",
    "run: timing in onnxruntime",
]


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    }
    return {**kept, "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color", **more}


def test_on_a_pipe_there_is_a_line_per_step() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM], input=b"\n\n", stderr=subprocess.PIPE, env=environment(), check=True
    )
    assert done.stderr.decode().splitlines() == PLAIN


class Terminal:
    """The program in a pseudo-terminal of a size, and what its screen shows."""

    def __init__(self, lines: int, columns: int, **more: str) -> None:
        import pty

        pyte = pytest.importorskip("pyte")
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.stream = pyte.ByteStream(self.screen)
        self.bytes = b""
        self.ours, theirs = pty.openpty()
        self.resize(lines, columns, tell=False)
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=environment(**more),
        )
        os.close(theirs)
        os.set_blocking(self.ours, False)

    def resize(self, lines: int, columns: int, tell: bool = True) -> None:
        import fcntl
        import signal
        import struct
        import termios

        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)
            self.screen.resize(lines, columns)

    def read(self) -> None:
        try:
            found = os.read(self.ours, 1 << 16)
        except (BlockingIOError, OSError):
            return
        self.bytes += found
        self.stream.feed(found)

    def wait_for(self, words: str, seconds: float = 30) -> str:
        """The screen's text as soon as it has these words."""
        end = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < end, self.text
            self.read()
            time.sleep(0.02)
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    @property
    def everything(self) -> str:
        """With what has scrolled out."""
        gone = ["".join(line[at].data for at in sorted(line)).rstrip() for line in self.screen.history.top]
        return "\n".join([*gone, self.text])

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        self.go_on()
        assert self.process.wait(30) == 0
        for _ in range(20):
            self.read()
        return self.everything

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        os.close(self.ours)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.close()


needs_pty = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")


@needs_pty
@pytest.mark.parametrize(
    ("lines", "columns"),
    [(12, 40), pytest.param(30, 100, marks=pytest.mark.slow), pytest.param(50, 24, marks=pytest.mark.slow)],
)
def test_the_dashboard_in_terminals_of_any_size(terminals: list[Terminal], lines: int, columns: int) -> None:
    terminal = Terminal(lines, columns)
    terminals.append(terminal)
    terminal.wait_for("epoch 2/3")
    terminal.go_on()
    time.sleep(0.6)
    terminal.read()
    text = terminal.text
    for words in ("2/4 generations", "gen 03: retraining", "epoch 2/3", "loss 0.0333 █"):
        assert text.count(words) == 1, text
    assert re.search(r"^ *02 +2.25x", text, re.MULTILINE)
    everything = terminal.finish()
    assert everything.count("lenet5.onnx") == 1
    assert [len(re.findall(rf"^ *0{number} ", everything, re.MULTILINE)) for number in (1, 2, 3)] == [1, 1, 1]
    flat = " ".join(everything.split())
    assert "A late remark." in flat
    assert FAULT["kind"] in flat
    assert "epoch" not in everything


@needs_pty
@pytest.mark.parametrize("size", [(14, 30), pytest.param((40, 140), marks=pytest.mark.slow)])
def test_the_dashboard_survives_a_resize(terminals: list[Terminal], size: tuple[int, int]) -> None:
    terminal = Terminal(30, 80)
    terminals.append(terminal)
    terminal.wait_for("epoch 2/3")
    terminal.resize(*size)
    # What a terminal makes of the old lines nobody knows: here, rubbish everywhere and the cursor below.
    terminal.stream.feed(b"\x1b[H" + b"\r\n".join([b"X" * size[1]] * size[0]))
    time.sleep(0.3)
    terminal.go_on()
    text = terminal.wait_for("loss 0.0333")
    time.sleep(0.6)
    terminal.read()
    text = terminal.text
    assert "XX" not in text
    for words in ("2/4 generations", "epoch 2/3", "gen 03: retraining"):
        assert text.count(words) == 1, text
    assert re.findall(r"^ *0(\d) ", terminal.finish(), re.MULTILINE).count("3") == 1


COLOURS = re.compile(rb"\x1b\[[0-9;]*\b(?:3[0-8]|4[0-8]|9[0-7])\b[0-9;]*m")


@needs_pty
@pytest.mark.slow
def test_no_color_is_heard(terminals: list[Terminal]) -> None:
    for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal(30, 80, **more)
        terminals.append(terminal)
        terminal.wait_for("epoch 2/3")
        terminal.go_on()
        terminal.finish()
        assert bool(COLOURS.search(terminal.bytes)) == coloured


@needs_pty
def test_a_dumb_terminal_gets_plain_lines(terminals: list[Terminal]) -> None:
    terminal = Terminal(30, 100, TERM="dumb")
    terminals.append(terminal)
    terminal.go_on()
    terminal.finish()
    assert b"\x1b" not in terminal.bytes
    assert terminal.bytes.decode().replace("\r\n", "\n").splitlines() == PLAIN
