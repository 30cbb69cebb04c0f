"""What every command shares: options, the frame that turns errors into messages, and output.

Standard output carries a command's result and nothing else; progress and messages go to standard error.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TextIO

import typer

from evonnx.cli._signals import stoppable, what_happened
from evonnx.errors import EvonnxError
from evonnx.text import plain

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 160
"""Columns for tables in a pipe or a file, where nothing wraps them."""


class Provider(StrEnum):
    """Where onnxruntime runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


Model = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Where to write; replaced whole.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of onnxruntime.", show_default="its own choice"),
]
TimedOn = Annotated[
    Provider,
    typer.Option("--provider", help="Where the model is to run fast: what is timed is timed there."),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=1,3,224,224",
        help="Concrete shape of an input with symbolic dimensions; repeatable.",
        show_default=False,
    ),
]

Arguments = ParamSpec("Arguments")


def command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Frame a command: errors become one paragraph on standard error and an exit code.

    0 done; 1 an error with its reason; 2 wrong usage; 130 interrupted, 143 ended by SIGTERM. Tracebacks need
    `--debug`. An error that nobody foresaw is a bug, unless the ONNX standard or onnxruntime refuse the model
    too. Under `--json`, whatever libraries or task files print goes to standard error: standard output is one
    document. A note added to an exception is a last sentence that is shown as it is.
    """

    @functools.wraps(function)
    def framed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with stoppable() as heard:
            try:
                with _only_json(bool(kwargs.get("as_json"))):
                    return function(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt as stop:
                _leave(stop)
            except Exception as error:
                if heard.stop is not None:
                    heard.stop.__notes__ = getattr(error, "__notes__", [])
                    _leave(heard.stop)
                if kwargs.get("debug"):
                    raise
                _explain(error, kwargs)

    return framed


def _fault_of_models(given: Mapping[str, Any]) -> str | None:
    """Why one of the models that a command was given is not sound, if one is not."""
    from evonnx.onnx_io import check_file
    from evonnx.sessions import make_session

    for name in ("model", "masked", "models", "ancestor", "offspring"):
        for path in given.get(name) or () if name == "models" else (given.get(name),):
            if path is None or not os.path.isfile(path):  # noqa: PTH113 (a text, maybe of no path at all)
                continue
            try:
                check_file(path)
                make_session(path, threads=1)
            except EvonnxError as error:
                return f"{path} is not a sound model, and evonnx cannot work with it. {error}"
    return None


def _explain(error: Exception, given: Mapping[str, Any]) -> None:
    """Say what went wrong with what was given, and leave."""
    hint = " ".join(getattr(error, "__notes__", ()))
    if isinstance(error, EvonnxError):
        _fail(str(error), hint)
    if isinstance(error, BrokenPipeError):
        # The reader of our output went away; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    if isinstance(error, MemoryError):
        _fail("There is not enough memory for this.", hint)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}.", hint)
    if fault := _fault_of_models(given):
        _fail(fault, hint)
    _fail(
        f"This is a bug in evonnx, not in what you gave it: {type(error).__name__}: {error}. "
        "Run the command again with --debug for the traceback, and please report it."
    )


def _leave(stop: KeyboardInterrupt) -> None:
    """Somebody said that it is enough."""
    words, code = what_happened(stop)
    _fail(words, " ".join(getattr(stop, "__notes__", ())), code)


def _fail(message: str, hint: str = "", code: int = 1) -> NoReturn:
    """Say why on standard error, as one paragraph, and leave.

    Args:
        message: any text.
        hint: what to do, in one line, shown as it is.
        code: of the process.
    """
    paragraph = " ".join(message.split())
    print(f"evonnx: {plain(paragraph)}{f' {plain(hint)}' if hint else ''}", file=sys.stderr)
    raise typer.Exit(code)


_results: ContextVar[TextIO | None] = ContextVar("_results", default=None)
"""Where `emit` writes while standard output is turned away; None: standard output."""


@contextlib.contextmanager
def _only_json(wanted: bool) -> Iterator[None]:
    """Inside, `print` goes to standard error if only JSON may go to standard output; `emit` gets past."""
    if not wanted:
        yield
        return
    token = _results.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def emit(document: Mapping[str, Any]) -> None:
    """Print the one JSON document of a command run with `--json`."""
    stdout = _results.get() or sys.stdout
    stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    stdout.flush()


def say(message: str) -> None:
    """A line of news on standard error."""
    print(plain(message), file=sys.stderr)


def console() -> Console:
    """Where tables go: standard output, as wide as the terminal or wide enough for a pipe; no markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
    return Console(width=width, markup=False, emoji=False, highlight=False)


def input_shapes(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """`["image=1,3,224,224"]` as `{"image": (1, 3, 224, 224)}`; an empty right side is a scalar.

    Raises:
        typer.BadParameter: (exit code 2) not of that form, a dimension under 1, or a name came twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, dimensions = text.rpartition("=")
        try:
            shape = tuple(int(part) for part in dimensions.split(",")) if dimensions else ()
        except ValueError:
            shape = (0,)
        if not equals or not name or any(dimension < 1 for dimension in shape):
            raise typer.BadParameter(
                f"{plain(text)!r} is not of the form NAME=1,3,224,224.", param_hint="--input-shape"
            )
        if name in shapes:
            raise typer.BadParameter(f"{plain(name)!r} is given twice.", param_hint="--input-shape")
        shapes[name] = shape
    return shapes


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """`"1,32"` as (1, 32), each at least 1.

    Raises:
        typer.BadParameter: (exit code 2) anything else.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{plain(text)!r} is not a list of numbers such as 1,32.", param_hint=option)
    return numbers


def alignment(text: str, option: str = "--align") -> int | None:
    """`"auto"` as None, else a number of at least 1.

    Raises:
        typer.BadParameter: (exit code 2) neither.
    """
    if text == "auto":
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise typer.BadParameter(
        f"{plain(text)!r} is neither auto nor a number of at least 1.", param_hint=option
    )


def not_the_same(model: str, output: str) -> None:
    """Refuse to write over what is being read.

    Raises:
        typer.BadParameter: (exit code 2) both name one file.
    """
    if os.path.exists(output) and os.path.exists(model) and os.path.samefile(model, output):  # noqa: PTH110, PTH121
        raise typer.BadParameter(
            "The output would replace the model itself; name another file.", param_hint="-o"
        )
