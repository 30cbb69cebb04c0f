"""`evonnx plan`: what became of a model's weights, for the module that it was exported from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from evonnx.cli._common import (
    Debug,
    InputShapes,
    Json,
    Output,
    command,
    console,
    emit,
    input_shapes,
    not_the_same,
)
from evonnx.text import plain

if TYPE_CHECKING:
    from pathlib import Path

    from evonnx.module_plan import ModulePlan


@dataclass(frozen=True)
class _Row:
    """A constant of the ancestor of which something goes."""

    name: str
    shape: tuple[int, ...]
    kept: dict[int, tuple[int, int]]
    """By axis: how many indices stay, of how many."""
    live: int | None
    """Numbers by mask; None: all."""

    @classmethod
    def of(cls, made: ModulePlan, name: str) -> _Row:
        tensor = made.tensors[name]
        kept = {
            axis: (indices.size, tensor.axes[axis].size) for axis, indices in tensor.kept(made.flags).items()
        }
        return cls(name, tensor.shape, kept, None if tensor.mask is None else int(tensor.mask.sum()))

    def cells(self) -> tuple[str, ...]:
        stays = ", ".join(f"axis {axis}: {left} of {size}" for axis, (left, size) in self.kept.items())
        live = "all" if self.live is None else f"{self.live:,}"
        return self.name, " x ".join(map(str, self.shape)), stays or "all", live


@command
def plan(
    offspring: Annotated[
        str,
        typer.Argument(
            metavar="RUN_DIR|COMPACT|MASKED",
            help="Where `evonnx evolve` wrote, or an offspring's ONNX file.",
            show_default=False,
        ),
    ],
    ancestor: Annotated[
        str, typer.Option(help="The ONNX file that was exported from the module.", show_default=False)
    ],
    output: Output,
    generation: Annotated[
        int | None,
        typer.Option(min=1, help="Which offspring of RUN_DIR.", show_default="best.onnx"),
    ] = None,
    input_shape: InputShapes = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write masks and kept indices by parameter name, for the module that a model was exported from.

    `evonnx_torch.apply_plan(module, "plan.safetensors")` masks or shrinks a torch module with it, and proves
    the result. The file holds, per constant of the ancestor, which of its numbers live (mask/NAME) and which
    indices of an axis stay (kept/NAME:AXIS).

    \b
    Examples:
      evonnx plan runs/mine --ancestor model.onnx -o plan.safetensors
      evonnx plan compact.onnx --ancestor model.onnx -o plan.safetensors --json
    """
    from dataclasses import asdict
    from pathlib import Path

    from evonnx.module_plan import make_plan, save_plan
    from evonnx.network import load_network
    from evonnx.report.table import Table, show

    model = _model_of(Path(offspring), Path(ancestor), generation)
    for read in (str(model), ancestor):
        not_the_same(read, output)
    shapes = input_shapes(input_shape)
    made = make_plan(load_network(ancestor, shapes), load_network(model, shapes))
    save_plan(output, made)
    rows = [_Row.of(made, name) for name in made.tensors if made.affected(name)]
    if as_json:
        emit(
            {
                "ancestor": ancestor,
                "offspring": str(model),
                "output": output,
                "tensors": [asdict(row) for row in rows],
                "counts": [{"node": c.node, "what": c.what, "old": c.old, "new": c.new} for c in made.counts],
                "kept_whole": made.kept_whole,
            }
        )
        return
    title = f"{model} in the shapes of {ancestor}"
    show(Table(title, ("tensor", "shape", "stays", "live"), tuple(row.cells() for row in rows)), console())
    for reason in made.kept_whole:
        print(plain(f"Kept in a module: {reason}."))
    print(plain(f"Written: {output}"))


def _model_of(offspring: Path, ancestor: Path, generation: int | None) -> Path:
    """The offspring's file.

    Raises:
        ModelError: the ancestor cannot be read.
        RunError: the folder is no run, has no such offspring, or began with another ancestor.
    """
    from evonnx.errors import RunError
    from evonnx.onnx_io import load_model, model_digest
    from evonnx.run_store import BEST_FILE, COMPACT_FILE, RUN_FILE, RunStore, read_json

    if not offspring.is_dir():
        if generation is not None:
            raise typer.BadParameter(
                f"{plain(str(offspring))} is no run directory.", param_hint="--generation"
            )
        return offspring
    configuration = read_json(offspring / RUN_FILE).get("configuration")
    wanted = configuration.get("model_sha256") if isinstance(configuration, dict) else None
    load_model(ancestor)  # what it refuses has no digest
    if wanted != model_digest(ancestor):
        raise RunError(
            f"The run in {offspring} did not begin with {ancestor} as it is now. Give the model that it was "
            "started with; if that was an offspring itself, name best.onnx in place of the run directory."
        )
    folder = offspring if generation is None else RunStore(offspring).generation_folder(generation)
    model = folder / (BEST_FILE if generation is None else COMPACT_FILE)
    if not model.is_file():
        raise RunError(
            f"{model} does not exist: the run has not come that far. Name a complete generation with "
            "--generation, or let the run finish."
        )
    return model
