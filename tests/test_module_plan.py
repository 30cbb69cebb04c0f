"""Plans for modules: what they say, their file, and the command that writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from evolution_support import in_ancestor_coordinates, run, write_case
from graphs import GRAPHS
from quantized import quantized
from removal_support import compact, network, random_masks
from safetensors import safe_open
from safetensors.numpy import save_file

from evonnx.dependency import analyse
from evonnx.errors import ModelError, PlanError
from evonnx.masking import closed_masks
from evonnx.module_plan import is_same, lay_out, load_plan, make_plan, save_plan, sketch
from evonnx.network import network_of
from evonnx.run_store import load_tensors


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx and a run of two generations."""
    folder = tmp_path_factory.mktemp("evolved")
    run(write_case(folder), folder / "run")
    return folder


@pytest.fixture
def evonnx_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("COLUMNS", "160")
    return CommandLine(capsys)


@pytest.mark.parametrize("kind", ["channel", "kernel", "layer"])
@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_what_is_kept_covers_the_compact_model(name, kind):
    """On every graph: masks are those of the masked model, and every live number is among what is kept."""
    ancestor = network(GRAPHS[name]())
    coupling = analyse(ancestor)
    if any(one.quantization is not None for one in ancestor.weights.values()):
        pytest.skip("quantised models have no module")
    masks = random_masks(ancestor, coupling, kind, np.random.default_rng(4))
    _, _, compacted = compact(ancestor, coupling, masks)
    offspring = network_of(compacted.model, "compact.onnx", ancestor.input_shapes)
    plan = make_plan(ancestor, offspring)
    closed, laid_out = closed_masks(ancestor, coupling, masks), lay_out(plan, offspring)
    for weight in ancestor.weights:
        tensor, (values, there) = plan.tensors[weight], laid_out[weight]
        live = np.ones(tensor.shape, dtype=bool) if tensor.mask is None else tensor.mask
        old = ancestor.array(weight)
        np.testing.assert_array_equal(np.where(there, values, 0), np.where(there, np.where(live, old, 0), 0))
        assert not (live & (old != 0) & ~closed[weight]).any()
        kept = np.ones(tensor.shape, dtype=bool)
        for axis, ids in tensor.axes.items():
            if ids.ndim == 1:
                place = [1] * kept.ndim
                place[axis] = ids.size
                kept = kept & plan.flags[ids].reshape(place)
        assert not (live & (old != 0) & ~kept).any()


def test_a_plan_of_a_run_agrees_with_its_lineage(evolved, evonnx_cli, tmp_path):
    folder, path = evolved / "run" / "gen-02", tmp_path / "plan.safetensors"
    given = ("plan", evolved / "run", "--ancestor", evolved / "model.onnx", "-o", path)
    shown = evonnx_cli(*given, "--generation", 2, "--json")
    plan = load_plan(path)
    lineage = load_tensors(folder / "lineage.safetensors")
    assert lineage
    stored = {name.removeprefix("kept/"): ids for name, ids in load_tensors(path).items() if "kept/" in name}
    for key, indices in lineage.items():
        assert set(indices.tolist()) <= set(stored.get(key, indices).tolist())
    for name, tensor in plan.tensors.items():
        for axis, kept in tensor.kept(plan.flags).items():
            assert stored.pop(f"{name}:{axis}").tolist() == kept.tolist()
    assert not stored
    for name, live in in_ancestor_coordinates(folder / "compact.onnx", evolved / "model.onnx").items():
        np.testing.assert_array_equal(plan.tensors[name].mask, live)
    rows = {row["name"]: row for row in shown.document["tensors"]}
    assert rows["fc1.weight"]["live"] == int(plan.tensors["fc1.weight"].mask.sum())
    best = evonnx_cli(*given)
    assert best.code == 0
    assert "fc1.weight" in best.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("run --ancestor other.onnx", 1, "did not begin with other.onnx"),
        ("run --ancestor nothing.onnx", 1, "nothing.onnx does not exist"),
        ("run --ancestor model.onnx --generation 9", 1, "gen-09/compact.onnx does not exist"),
        ("empty --ancestor model.onnx", 1, "run.json does not exist"),
        ("nothing.onnx --ancestor model.onnx", 1, "nothing.onnx does not exist"),
        ("run/best.onnx --ancestor other.onnx", 1, "does not descend from other.onnx"),
        ("run/best.onnx --ancestor run/gen-01/compact.onnx", 1, "has been cut itself"),
        ("model.onnx --ancestor model.onnx --generation 1", 2, "is no run directory"),
        ("run/best.onnx --ancestor model.onnx -o model.onnx", 2, "would replace the model"),
        ("run/best.onnx --ancestor model.onnx -o no/such/folder", 1, "Cannot write no/such/folder"),
    ],
)
def test_what_cannot_be_planned(arguments, code, message, evolved, evonnx_cli, tmp_path, monkeypatch):
    shutil.copytree(evolved, tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    Path("empty").mkdir()
    onnx.save(GRAPHS["resnet"]() if "resnet" in GRAPHS else GRAPHS["lenet"](), "other.onnx")
    words = arguments.split()
    shown = evonnx_cli("plan", *words, *([] if "-o" in words else ["-o", "plan.safetensors"]))
    assert shown.code == code
    assert message in " ".join(shown.err.replace("│", " ").split())
    assert shown.out == ""
    assert not Path("plan.safetensors").exists()


def small_plan(path: Path) -> dict[str, np.ndarray]:
    """A plan in a file, and its arrays."""
    ancestor = network(GRAPHS["lenet"]())
    coupling = analyse(ancestor)
    masks = random_masks(ancestor, coupling, "channel", np.random.default_rng(0), 0.5)
    _, _, compacted = compact(ancestor, coupling, masks)
    save_plan(path, make_plan(ancestor, network_of(compacted.model, "compact.onnx", ancestor.input_shapes)))
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("prefix", ["kept/", "class/", "mask/", "sketch/"])
@pytest.mark.parametrize("how", ["lost", "beyond", "cut", "other type"])
def test_a_damaged_plan_is_refused(prefix, how, tmp_path):
    path = tmp_path / "plan.safetensors"
    arrays = small_plan(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    name = next(name for name in arrays if name.startswith(prefix))
    array = arrays.pop(name)
    if how == "beyond":
        arrays[name] = np.full_like(array.astype(np.int64), 1 << 40)
        if prefix == "sketch/":
            arrays[name] = arrays[name][:3]
    elif how == "cut":
        arrays[name] = array[:-1]
    elif how == "other type":
        arrays[name] = array.astype(np.float32)
    save_file(arrays, path, metadata)
    with pytest.raises(PlanError, match="Make it with `evonnx plan`"):
        load_plan(path)


@pytest.mark.parametrize("document", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "classes": 1e99}'])
def test_other_files_are_no_plans(document, tmp_path):
    path = tmp_path / "plan.safetensors"
    save_file({"x": np.zeros(1)}, path, {"evonnx.plan": document})
    with pytest.raises(PlanError):
        load_plan(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(PlanError):
        load_plan(path)


def test_sketches_tell_numbers_apart():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((40, 30)).astype(np.float32)
    rounded = (array * np.float32(3)) / np.float32(3)
    assert is_same(sketch(array), sketch(rounded))
    one, swapped = array.copy(), array.copy()
    one[17, 3] += 0.05
    swapped[[4, 9]] = swapped[[9, 4]]
    for other in (one, swapped, array.T, -array, np.zeros_like(array)):
        assert not is_same(sketch(array), sketch(other))
    assert is_same(sketch(np.zeros(5)), sketch(np.zeros(5)))


def test_quantised_models_are_refused():
    graph = network(quantized(GRAPHS["lenet"]()))
    with pytest.raises(ModelError, match="is quantised"):
        make_plan(graph, graph)
