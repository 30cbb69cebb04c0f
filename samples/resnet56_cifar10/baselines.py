"""What evolution is compared with at equal multiply-accumulates, data, epochs, teacher and recipe.

    python samples/resnet56_cifar10/baselines.py torch-pruning --macs 0.3885 --epochs 35 --learning-rate 0.05
    python samples/resnet56_cifar10/baselines.py small --macs 0.3885 --epochs 35 --learning-rate 0.05
    python samples/resnet56_cifar10/baselines.py scratch --like RUN/best.onnx --epochs 35 --learning-rate 0.05

torch-pruning: channels removed in one shot from the ancestor by Torch-Pruning (`pip install torch-pruning`),
ranked by its group norm over all layers; those of the residual stream stay, since it does not follow the
shortcuts' padding. small: ResNet-56 of equally narrower layers, fresh weights. scratch: the very structure of
an evolved model, fresh weights. Each is then trained by the torch adapter as an offspring is, with the
ancestor as teacher, and scored in onnxruntime. Needs what train.py makes; a killed training goes on when it
is started again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from train import ResNet, write_onnx  # noqa: E402

from evonnx.adapter import Progress, TrainingBudget  # noqa: E402
from evonnx.evolution.judging import Judge  # noqa: E402
from evonnx.evolution.retraining import Trainer  # noqa: E402
from evonnx.network import load_network  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model, save_model, set_array  # noqa: E402
from evonnx.plugins import get  # noqa: E402
from evonnx.resources import count  # noqa: E402
from evonnx.tasks import find_task  # noqa: E402

STEPS = 14
"""Of bisection for the largest network within the bound."""


def macs(model: Path) -> int:
    """Multiply-accumulates of the stored shapes for one image."""
    found = count(load_network(model)).macs
    assert found is not None
    return found


def largest(make: Callable[[float], ResNet], bound: float, path: Path) -> None:
    """Write the largest network of `make(size)`, size in (0, 1), that takes at most `bound` MACs."""
    low = best = 0.0
    high = 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        write_onnx(make(middle), path)
        if macs(path) <= bound:
            low = best = middle
        else:
            high = middle
    write_onnx(make(best), path)


def narrower(size: float) -> ResNet:
    """ResNet-56 with fresh weights, every layer narrower."""
    torch.manual_seed(0)
    return ResNet(width=max(size, 1 / 16)).eval()


def pruned(ancestor: Path, size: float) -> ResNet:
    """The ancestor after one step of Torch-Pruning that leaves about `size` of the channels it may remove."""
    import torch_pruning

    network = ResNet()
    arrays = initializer_arrays(load_model(ancestor))
    state = {
        name: torch.from_numpy(np.array(arrays[name])) for name in network.state_dict() if name in arrays
    }
    network.load_state_dict(network.state_dict() | state)
    inner = {block.conv1 for block in network.modules() if hasattr(block, "more")}
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    torch_pruning.pruner.BasePruner(
        network.eval(),
        torch.zeros(1, 3, 32, 32),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=1 - size,
        max_pruning_ratio=0.9,
        global_pruning=True,
        ignored_layers=[one for one in layers if one not in inner],
    ).step()
    return network


def refresh(model: ir.Model, seed: int) -> None:
    """Fresh weights: normal ones of He's scale for layers, identity for normalisation."""
    rng = np.random.default_rng(seed)
    arrays = initializer_arrays(model)
    for node in model.graph:
        names = [value.name if value is not None else None for value in node.inputs]
        if node.op_type in ("Conv", "Gemm") and names[1] in arrays:
            old = arrays[names[1]]
            inputs = old.size // old.shape[0]
            set_array(model, names[1], rng.normal(0, (2 / inputs) ** 0.5, old.shape).astype(old.dtype))
            if len(names) > 2 and names[2] in arrays:
                set_array(model, names[2], np.zeros_like(arrays[names[2]]))
        elif node.op_type == "BatchNormalization":
            for name, value in zip(names[1:], (1, 0, 0, 1), strict=True):
                set_array(model, name, np.full_like(arrays[name], value))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("torch-pruning", "small", "scratch"))
    parser.add_argument("--model", type=Path, default=Path("runs/resnet56_cifar10/resnet56.onnx"))
    parser.add_argument("--macs", type=float, help="share of the ancestor's multiply-accumulates")
    parser.add_argument("--like", type=Path, help="an evolved model, for scratch")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, help="peak; default: the adapter's, as for evolve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/resnet56_cifar10/baselines"))
    given = parser.parse_args()
    if (given.like is None) == (given.what == "scratch") or (given.macs is None) != (given.what == "scratch"):
        parser.error("scratch needs --like, the others need --macs")
    folder: Path = given.out / f"{given.what}-{given.macs or given.like.parent.name}-{given.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    start, end = folder / "start.onnx", folder / "trained.onnx"
    if given.what == "scratch":
        model = load_model(given.like)
        refresh(model, given.seed)
        save_model(model, start)
    else:
        bound = given.macs * macs(given.model)
        largest(narrower if given.what == "small" else lambda size: pruned(given.model, size), bound, start)
    task, _, defaults = find_task(given.model, load_network(given.model), None)
    known = {name: value for name, value in defaults.items() if name in TrainingBudget.__dataclass_fields__}
    if given.learning_rate is not None:
        known["learning_rate"] = given.learning_rate
    budget = replace(TrainingBudget(**known), epochs=given.epochs, threads=given.threads)
    trainer = Trainer(get("adapters", "torch")(), task, given.model, {}, folder / "checkpoints")

    def tell(news: Progress) -> None:
        if news.step == news.steps:
            print(f"epoch {news.epoch}/{news.epochs}: loss {news.loss:.4f}", file=sys.stderr, flush=True)

    trainer.retrain(start, end, budget, given.seed, tell)
    judge, resources = Judge(task, given.threads), count(load_network(end))
    print(
        f"| {given.what} | {macs(given.model) / macs(end):.2f}x MACs | {resources.parameters} parameters | "
        f"validation {100 * judge.validation(end):.2f} | test {100 * judge.reported(end).value:.2f} | "
        f"{given.epochs} epochs, seed {given.seed} |"
    )


if __name__ == "__main__":
    main()
