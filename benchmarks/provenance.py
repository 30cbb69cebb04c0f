"""Where figures come from: machine, date, commit and versions; and tables written into Markdown files."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from evonnx.sessions import default_threads
from evonnx.speed.machine import environment

ABILITIES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def provenance() -> str:
    """One paragraph."""
    versions = environment()
    runtime = next(name for name in versions if name.startswith("onnxruntime"))
    libraries = [f"{runtime} {versions[runtime]}"]
    if "torch" in sys.modules:
        libraries.append(f"torch {sys.modules['torch'].__version__}")
    return (
        f"Measured {date.today()} at commit {_commit()} on {versions['processor']} ({_abilities()}), "
        f"{default_threads()} cores; {', '.join(libraries)}, Python {platform.python_version()}; "
        f"`python {shlex.join([_relative(sys.argv[0]), *sys.argv[1:]])}`."
    )


def general(notes: Iterable[str], models: Sequence[Path]) -> list[str]:
    """Each note once, but those on single models: named by their paths, they are too much for a page."""
    return list(dict.fromkeys(one for one in notes if not any(str(model) in one for model in models)))


def replace_section(file: Path, name: str, text: str) -> None:
    """Put text between `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        ValueError: the file has no such section.
    """
    whole = file.read_text(encoding="utf-8")
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    start, end = whole.index(opening) + len(opening), whole.index(closing)
    file.write_text(whole[:start] + text + "\n" + whole[end:], encoding="utf-8")


def _commit() -> str:
    here = Path(__file__).resolve().parent
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=here
    )
    return found.stdout.strip() or "unknown"


def _abilities() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        flags = set()
    return ", ".join(one for one in ABILITIES if one in flags) or platform.machine()


def _relative(path: str) -> str:
    return str(Path("benchmarks") / Path(path).name)
