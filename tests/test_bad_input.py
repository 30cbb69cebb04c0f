"""Bad input of many kinds: an exit code of 1 or 2, one clear message, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from graphs import GRAPHS
from onnx import TensorProto, helper

from evonnx.cli._common import plain

GOLDEN = Path(__file__).parent / "golden"
TASK = '[task]\nkind = "classification"\ntrain = "data.npz"\ntest = "data.npz"\n'

Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class Bad:
    """One kind of bad input. Files are named relative to the folder that `prepare` fills."""

    name: str
    command: str
    """Space-separated arguments."""
    says: str
    """Part of the message."""
    prepare: Prepare = lambda folder: None
    code: int = 1


def good_model(folder: Path, name: str = "lenet") -> onnx.ModelProto:
    model = GRAPHS[name]()
    onnx.save(model, folder / "m.onnx")
    return model


def write(name: str, content: bytes | str) -> Prepare:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw) and None


def truncated(folder: Path) -> None:
    good_model(folder)
    path = folder / "m.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def external(location: str) -> Prepare:
    def prepare(folder: Path) -> None:
        inner = folder / "inner"
        inner.mkdir()
        onnx.save(
            GRAPHS["lenet"](),
            inner / "m.onnx",
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
        model = onnx.load(inner / "m.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        (inner / "w.bin").rename(folder / "outside.bin")
        onnx.save(model, inner / "m.onnx")

    return prepare


def with_change(change: Callable[[onnx.ModelProto], None], name: str = "lenet") -> Prepare:
    def prepare(folder: Path) -> None:
        model = GRAPHS[name]()
        change(model)
        onnx.save(model, folder / "m.onnx")

    return prepare


def too_new(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nobody"


def not_finite(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        first = max(model.graph.initializer, key=lambda tensor: len(tensor.dims))
        array = onnx.numpy_helper.to_array(first).copy()
        array.flat[1] = value
        first.CopyFrom(onnx.numpy_helper.from_array(array, first.name))

    return change


def no_weights(folder: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )


def data(
    shape: tuple[int, ...] = (6, 1, 12, 12), labels: tuple[int, ...] | None = None, task: str = TASK
) -> Prepare:
    def prepare(folder: Path) -> None:
        good_model(folder)
        x = np.zeros(shape, np.float32)
        y = np.array(labels if labels is not None else (0,) * shape[0], np.int64)
        np.savez(folder / "data.npz", x=x, y=y)
        (folder / "m.toml").write_text(task)

    return prepare


def with_files(**files: str | bytes) -> Prepare:
    """A good model, a good task and data, and these files (named with _ for a dot) in place of them."""

    def prepare(folder: Path) -> None:
        data()(folder)
        for name, content in files.items():
            write(name.replace("_", "."), content)(folder)

    return prepare


def a_run(**changes: str) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / "run").mkdir()
        shutil.copy(GOLDEN / "run.json", folder / "run")
        for name, content in changes.items():
            (folder / "run" / name.replace("_", ".")).write_text(content)

    return prepare


def without_ancestor() -> str:
    run = json.loads((GOLDEN / "run.json").read_text())
    del run["ancestor"]
    return json.dumps(run)


CLASS_FILE = "class Task:\n    def __init__(self, config, network):\n        raise ValueError('not today')\n"

KINDS = [
    # Models
    Bad("no such file", "inspect nowhere.onnx", "nowhere.onnx"),
    Bad("a folder", "inspect .", "folder"),
    Bad("not ONNX", "inspect m.onnx", "m.onnx", write("m.onnx", "this is not a model\n" * 20)),
    Bad("an empty file", "inspect m.onnx", "empty", write("m.onnx", b"")),
    Bad("truncated", "inspect m.onnx", "m.onnx", truncated),
    Bad("missing external data", "synthesize inner/m.onnx -o o.onnx", "gone.bin", external("gone.bin")),
    Bad("external data outside", "synthesize inner/m.onnx -o o.onnx", "outside", external("../outside.bin")),
    Bad("opset too new", "inspect m.onnx", "999", with_change(too_new)),
    Bad("input of a node missing", "inspect m.onnx", "nobody", with_change(dangling)),
    Bad("NaN weights", "synthesize m.onnx -o o.onnx", "NaN", with_change(not_finite(float("nan")))),
    Bad("infinite weights", "synthesize m.onnx -o o.onnx", "infinite", with_change(not_finite(float("inf")))),
    Bad("NaN weights evolved", "evolve m.onnx --out o", "NaN", with_change(not_finite(float("nan")))),
    Bad("nothing to prune", "synthesize m.onnx -o o.onnx", "Conv", no_weights),
    Bad("nothing to evolve", "evolve m.onnx --out o", "nothing to evolve", no_weights),
    Bad("unknown input", "inspect m.onnx --input-shape z=1,2", "'z'", good_model),
    Bad("shape of wrong rank", "inspect m.onnx --input-shape x=1,2", "x", good_model),
    Bad("shape against the file", "inspect m.onnx --input-shape x=1,3,12,12", "x", good_model),
    # Tasks
    Bad("no such task file", "evaluate m.onnx --task t.toml", "t.toml", good_model),
    Bad("task is not TOML", "evaluate m.onnx", "m.toml", with_files(m_toml="kind: classification")),
    Bad("task without a table", "evaluate m.onnx", "[task]", with_files(m_toml="")),
    Bad("unknown kind of task", "evaluate m.onnx", "classificaton", data(task=TASK.replace("cati", "cat"))),
    Bad("unknown key", "evaluate m.onnx", "tset", data(task=TASK.replace("test", "tset"))),
    Bad("data file missing", "evaluate m.onnx", "gone.npz", data(task=TASK.replace("data", "gone"))),
    Bad("data is no archive", "evaluate m.onnx", "data.npz", with_files(data_npz="not an archive")),
    Bad("labels out of range", "evaluate m.onnx", "5", data(labels=(0, 1, 2, 3, 4, 5))),
    Bad("negative labels", "evaluate m.onnx", "-7", data(labels=(0, 1, 2, 3, 4, -7))),
    Bad("labels too few", "evaluate m.onnx", "data.npz", data(labels=(0, 1))),
    Bad("empty data", "evaluate m.onnx", "data.npz", data(shape=(0, 1, 12, 12))),
    Bad("data of another shape", "evaluate m.onnx", "[1, 12, 12]", data(shape=(6, 1, 9, 9))),
    Bad("task class missing", "evaluate m.onnx", "my.py", data(task='[task]\nkind = "my.py:Task"\n')),
    Bad(
        "task class that raises",
        "evaluate m.onnx",
        "not today",
        with_files(m_toml='[task]\nkind = "my.py:Task"\n', my_py=CLASS_FILE),
    ),
    # Choices
    Bad("unknown adapter", "evolve m.onnx --out o --adapter trch", "torch", data()),
    Bad("unknown encoding", "evolve m.onnx --out o --encoding adaptve", "adaptive", data()),
    Bad("unknown encoding sampled", "synthesize m.onnx -o o.onnx --encoding adaptve", "adaptive", good_model),
    Bad("unreachable budget", "synthesize m.onnx -o o.onnx --keep 0.001", "share", good_model),
    Bad("share above one", "synthesize m.onnx -o o.onnx --keep 1.5", "--keep", good_model, code=2),
    Bad("budget without a share", "evolve m.onnx --budget macs", "NAME=SHARE", good_model, code=2),
    Bad("budget on nothing known", "synthesize m.onnx -o o.onnx --budget x=0.5", "'x'", good_model),
    Bad("budget over all", "synthesize m.onnx -o o.onnx --budget macs=2", "share", good_model),
    Bad("share that is no number", "evolve m.onnx --keep half", "--keep", good_model, code=2),
    Bad("no generations", "evolve m.onnx --gens 0", "--gens", good_model, code=2),
    Bad("alignment of zero", "synthesize m.onnx -o o.onnx --align 0", "--align", good_model, code=2),
    Bad("malformed shape", "inspect m.onnx --input-shape x:1", "--input-shape", good_model, code=2),
    Bad("batch that does not fit", "bench m.onnx --batch 7 --provider cpu", "--batch", good_model),
    Bad("tensorrt without it", "bench m.onnx --provider tensorrt", "TensorrtExecutionProvider", good_model),
    # Places
    Bad("output in no folder", "synthesize m.onnx -o gone/o.onnx", "gone", good_model),
    Bad("output is a folder", "synthesize m.onnx -o .", "annot write", good_model),
    Bad("output below a file", "compact m.onnx -o m.onnx/o.onnx", "annot write", good_model),
    Bad("output is the input", "compact m.onnx -o m.onnx", "itself", good_model, code=2),
    Bad("run below a file", "evolve m.onnx --out m.onnx/run", "m.onnx/run", data()),
    Bad(
        "run exists",
        "evolve m.onnx --out run",
        "--resume",
        lambda folder: (data()(folder), a_run()(folder))[0],
    ),
    Bad("adapter option of no form", "evolve m.onnx --adapter-option cpu", "NAME=VALUE", good_model, code=2),
    Bad(
        "unreachable budget evolved",
        "evolve m.onnx --keep 0.001 --align 1 --out o",
        "share",
        data(shape=(20, 1, 12, 12), labels=(0, 1, 2, 3, 4) * 4),
    ),
    Bad("nothing to resume", "evolve m.onnx --resume --out gone", "gone", data()),
    Bad("resume what", "evolve m.onnx --resume", "--out", data()),
    Bad("no run there", "report gone", "gone"),
    Bad("damaged run", "report run", "run.json", a_run(run_json="{")),
    Bad("foreign run", "report run", "'ancestor'", a_run(run_json=without_ancestor())),
]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("bad", KINDS, ids=[bad.name for bad in KINDS])
def test_bad_input(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad.prepare(tmp_path)
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = CommandLine(capsys)(*bad.command.split())
    assert shown.code == bad.code, shown.err
    assert shown.out == ""
    mark = "evonnx: " if bad.code == 1 else "Error: "
    messages = [line for line in shown.err.splitlines() if line.startswith(mark)]
    assert len(messages) == 1, shown.err
    assert bad.says in shown.err[shown.err.index(mark) :]
    assert "Traceback" not in shown.err
    assert "bug in evonnx" not in shown.err
    assert shown.err.replace("\n", "") == plain(shown.err.replace("\n", ""))
    assert contents(tmp_path) == before


def test_there_are_at_least_twenty_kinds() -> None:
    assert len({bad.name for bad in KINDS}) == len(KINDS) >= 20
