"""The command adapter: the adapter contract with a program of numpy alone, and everything a program can do
wrong."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from evonnx.adapter import Progress, RetrainRequest, TrainingBudget
from evonnx.errors import AdapterError
from evonnx.testing import AdapterContract, TinyTask, tiny_classifier
from evonnx.testing.models import save
from evonnx_command import CommandAdapter
from evonnx_command.program import parse_progress
from evonnx_command.template import fill, split_command

TRAIN = """
import sys
import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

model, masks, output, data, epochs, seed = sys.argv[1:]
proto = onnx.load(model)
if any(node.domain for node in proto.graph.node):
    sys.exit("operator Mystery is not known here")
masks = load_file(masks)
examples = np.load(data)
weights = {one.name: numpy_helper.to_array(one).copy() for one in proto.graph.initializer}
rng = np.random.default_rng(int(seed))
for epoch in range(int(epochs)):
    for name, mask in masks.items():
        step = rng.normal(0, 0.01, weights[name].shape).astype(weights[name].dtype)
        weights[name] = (weights[name] + step) * mask
    loss = 1 / (epoch + 1) + float(examples["images"].mean())
    print(f"epoch {epoch + 1}/{epochs} loss {loss:.6f} lr 0.01", file=sys.stderr)
WRITE
"""

WRITERS = {
    "safetensors": "save_file(weights, output)",
    "safetensors-suffix": "save_file(weights, output + '.safetensors')",
    "onnx": """
for one in proto.graph.initializer:
    one.CopyFrom(numpy_helper.from_array(weights[one.name], one.name))
onnx.save(proto, output)
""",
}


@pytest.fixture
def script(tmp_path):
    """Writes a program and gives the command that runs it, arguments still to come."""

    def write(text: str) -> str:
        path = tmp_path / "my train.py"
        path.write_text(text)
        return f"{sys.executable} '{path}'"

    return write


class _CommandContract(AdapterContract):
    trains = False
    writer = ""

    @pytest.fixture
    def adapter(self):
        return CommandAdapter()

    @pytest.fixture
    def options(self, script):
        program = script(TRAIN.replace("WRITE", WRITERS[self.writer]))
        return {"command": f"{program} {{model}} {{masks}} {{output}} {{data}} {{epochs}} {{seed}}"}


class TestSafetensors(_CommandContract):
    writer = "safetensors"


class TestOnnx(_CommandContract):
    writer = "onnx"


@pytest.fixture
def model(tmp_path):
    return save(tiny_classifier(), tmp_path / "model.onnx")


@pytest.fixture
def retrain(model):
    """Runs a command line on the tiny classifier with every synapse alive."""

    def run(command: str, masks=None, progress=lambda news: None, checkpoint=None, **options):
        arrays = {one.name: numpy_helper.to_array(one) for one in onnx.load(model).graph.initializer}
        live = {name: np.ones(array.shape, np.bool_) for name, array in arrays.items() if "weight" in name}
        budget = TrainingBudget(epochs=1)
        request = RetrainRequest(
            model,
            live if masks is None else masks,
            TinyTask(),
            budget,
            3,
            None,
            progress,
            {"command": command, **options},
            checkpoint,
        )
        return CommandAdapter().retrain(request)

    return run


def test_a_suffix_may_be_appended(retrain, script):
    program = script(TRAIN.replace("WRITE", WRITERS["safetensors-suffix"]))
    result = retrain(f"{program} {{model}} {{masks}} {{output}} {{data}} {{epochs}} {{seed}}")
    assert set(result.weights) == {
        f"{layer}.{part}" for layer in ("conv", "fc1", "fc2") for part in ("weight", "bias")
    }
    assert [(one.epoch, one.learning_rate) for one in result.history] == [(1, 0.01)]


RESUMING = """
import pathlib, sys
import numpy as np
from safetensors.numpy import load_file, save_file

model, masks, output, checkpoint = sys.argv[1:]
kept = pathlib.Path(checkpoint)
done = int(kept.read_text()) if kept.exists() else 0
for epoch in range(done + 1, 4):
    print(f"epoch {epoch}/3 loss {1 / epoch}", flush=True)
    if epoch == 3 and not done:
        sys.exit("killed")
    kept.write_text(str(epoch))
save_file({name: np.zeros(mask.shape, np.float32) for name, mask in load_file(masks).items()}, output)
"""


def test_a_program_may_keep_its_progress(retrain, script, tmp_path):
    command = f"{script(RESUMING)} {{model}} {{masks}} {{output}} {{checkpoint}}"
    heard = []
    with pytest.raises(AdapterError, match="killed"):
        retrain(command, checkpoint=tmp_path / "kept")
    retrain(command, progress=heard.append, checkpoint=tmp_path / "kept")
    assert [news.epoch for news in heard] == [3]
    with pytest.raises(AdapterError, match="killed"):
        retrain(command)  # kept nowhere


def test_the_program_sees_what_was_promised(retrain, script, model, tmp_path, capfd):
    task_file = tmp_path / "task.toml"
    task_file.write_text("")
    program = script(
        """
import sys, shutil, pathlib
model, masks, output, data, task, epochs, seed, braces = sys.argv[1:]
print(pathlib.Path(task).name, epochs, seed, braces)
shutil.copy(masks, KEEP + "/masks"), shutil.copy(data, KEEP + "/data.npz"), shutil.copy(model, output)
pathlib.Path(model).write_bytes(b"a copy, so nothing is lost")
""".replace("KEEP", repr(str(tmp_path)))
    )
    before = model.read_bytes()
    masks = {"fc2.weight": np.arange(36).reshape(3, 12) >= 0}
    command = f"{program} {{model}} {{masks}} {{output}} {{data}} {{task}} {{epochs}} {{seed}} '{{{{}}}}'"
    result = retrain(command, masks, task=str(task_file))
    assert model.read_bytes() == before
    assert "task.toml 1 3 {}" in capfd.readouterr().err
    np.testing.assert_array_equal(load_file(tmp_path / "masks")["fc2.weight"], masks["fc2.weight"])
    data = np.load(tmp_path / "data.npz")
    assert {name: data[name].shape for name in data} == {"images": (96, 1, 8, 8), "targets": (96,)}
    arrays = {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(before).graph.initializer}
    for name, array in result.weights.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_words_are_not_run_through_a_shell(retrain, script, tmp_path):
    program = script(
        "import sys, shutil; shutil.copy(sys.argv[1], sys.argv[2]); assert sys.argv[3:] == ['$HOME;', 'a b']"
    )
    retrain(f"{program} {{model}} {{output}} '$HOME;' 'a b'")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "needs a command"),
        ("train 'x {output}", "cannot be split"),
        ("train {model}", r"no \{output\}"),
        ("train {modle} {output}", r"Did you mean \{model\}"),
        ("no-such-program-at-all {output}", "cannot be started"),
        ("train {task} {output}", r"use \{data\} instead"),
        ("train {ancestor} {output}", "none to distil from"),
    ],
)
def test_wrong_commands_are_named(retrain, command, message):
    with pytest.raises(AdapterError, match=message):
        retrain(command)


BODY = "import sys, numpy as np\nfrom safetensors.numpy import save_file\nout = sys.argv[1]\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('cuda is\\non fire'); sys.exit(3)", r"ended with code 3.*cuda is \| on fire"),
        ("raise ValueError('bad luck')", "ended with code 1.*bad luck"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "killed by signal 15"),
        ("pass", "wrote nothing"),
        ("open(out, 'wb').write(b'nonsense')", "neither safetensors nor a readable ONNX"),
        ("open(out, 'wb').close()", "neither safetensors nor a readable ONNX"),
        (
            "open(out, 'wb').write((5).to_bytes(8, 'little') + b'{oops')",
            "neither safetensors nor|cannot be read",
        ),
        ("import pickle; pickle.dump({'fc2.bias': np.zeros(3)}, open(out, 'wb'))", "neither safetensors nor"),
        (
            "open(out, 'wb').write((2).to_bytes(8, 'little') + b'{}')",
            "neither safetensors nor|without any weights",
        ),
        ("save_file({'fc2.biass': np.zeros(3, 'f4')}, out)", "Did it mean 'fc2.bias'"),
        ("save_file({'fc2.bias': np.zeros(4, 'f4')}, out)", r"float32\[4\]"),
        ("save_file({'fc2.bias': np.zeros(3, 'f8')}, out)", r"float64\[3\]"),
        ("save_file({'fc2.bias': np.full(3, np.inf, 'f4')}, out)", "NaN or infinite"),
        ("save_file({'fc2.weight': np.ones((3, 12), 'f4')}, out)", "must stay dead"),
    ],
)
def test_wrong_programs_are_errors(retrain, script, body, message):
    masks = {"fc2.weight": np.arange(36).reshape(3, 12) % 2 == 0}
    with pytest.raises(AdapterError, match=f"(?s){message}"):
        retrain(script(BODY + body) + " {output}", masks)


def test_an_export_with_other_names_is_an_error(retrain, script):
    program = script(
        """
import onnx, sys
proto = onnx.load(sys.argv[1])
for one in proto.graph.initializer:
    if one.name == "fc1.weight":
        one.name = "onnx::MatMul_12"
for node in proto.graph.node:
    node.input[:] = ["onnx::MatMul_12" if name == "fc1.weight" else name for name in node.input]
onnx.save(proto, sys.argv[2])
"""
    )
    with pytest.raises(AdapterError, match=r"lacks 1 of the model's 3 weights, such as 'fc1\.weight'"):
        retrain(f"{program} {{model}} {{output}}")


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_time_is_limited_for_children_too(retrain, script, tmp_path):
    program = script(
        "import subprocess, sys, time\nprint('starting', flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    start = time.monotonic()
    with pytest.raises(AdapterError, match=r"time limit of 1 s.*starting"):
        retrain(f"{program} {{output}}", time_limit="1")
    assert time.monotonic() - start < 20
    for wrong in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(AdapterError, match="time_limit must be"):
            retrain(f"{program} {{output}}", time_limit=wrong)


def test_weights_may_be_left_out_of_safetensors(retrain, script):
    result = retrain(script(BODY + "save_file({'fc2.bias': np.ones(3, 'f4')}, out)") + " {output}")
    assert {name: array.tolist() for name, array in result.weights.items()} == {"fc2.bias": [1, 1, 1]}


@pytest.mark.parametrize(
    ("line", "news"),
    [
        ("epoch 2/5 step 10/40 loss 0.31", Progress(2, 5, 10, 40, 0.31)),
        ("[train] Epoch 1/3: acc 0.5, loss=1e-3", Progress(1, 3, 1, 1, 1e-3)),
        ("epoch 1 / 3 loss: 2.", Progress(1, 3, 1, 1, 2.0)),
        ("epoch 1/3", None),
        ("loss 0.3", None),
        ("", None),
    ],
)
def test_progress_is_read_from_lines(line, news):
    assert parse_progress(line) == news


def test_values_stay_within_their_word():
    words = split_command("run --out={output} '{model}' {{x}}")
    assert fill(words, {"output": "/a b/{model}", "model": "m'; rm"}) == [
        "run",
        "--out=/a b/{model}",
        "m'; rm",
        "{x}",
    ]


def test_a_model_with_external_data_is_handed_over_where_it_lies(tmp_path, script):
    model = tmp_path / "big.onnx"
    onnx.save(tiny_classifier(), model, save_as_external_data=True, location="big.data", size_threshold=0)
    program = script(
        "import onnx, sys\nproto = onnx.load(sys.argv[1])\nonnx.save(proto, sys.argv[2])\nprint(sys.argv[1])"
    )
    masks = {"fc1.weight": np.ones((12, 36), np.bool_)}
    request = RetrainRequest(
        model, masks, TinyTask(), TrainingBudget(), 0, options={"command": f"{program} {{model}} {{output}}"}
    )
    result = CommandAdapter().retrain(request)
    assert result.weights["fc1.weight"].shape == (12, 36)
    save_file({name: array.copy() for name, array in result.weights.items()}, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again",
        "big.data",
        "big.onnx",
        "my train.py",
    ]
