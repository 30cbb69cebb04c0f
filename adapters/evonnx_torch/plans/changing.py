"""Changing a module so that it can be put back: parameters, buffers and the numbers that its code reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from evonnx.module_plan import Count
from evonnx.module_plan.plan import Flags
from evonnx_torch.plans.layers import sizes_after
from evonnx_torch.plans.parts import Part
from evonnx_torch.plans.report import Resized

Undo = Callable[[], None]
Attribute = tuple[str, int, int]
"""(name, before, after)."""


class Changes:
    """Changes to one module, in order, each with its way back."""

    def __init__(self, module: nn.Module) -> None:
        self.owners = dict(module.named_modules())
        self.undos: list[Undo] = []
        self.resized: list[Resized] = []
        self.attributes: list[Attribute] = []
        self._shared: dict[int, nn.Parameter] = {}

    def mark(self) -> tuple[int, int, int]:
        """A point to come back to."""
        return len(self.undos), len(self.resized), len(self.attributes)

    def undo(self, mark: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Put everything back that was changed since a point."""
        undos, resized, attributes = mark
        while len(self.undos) > undos:
            self.undos.pop()()
        del self.resized[resized:], self.attributes[attributes:]
        self._shared.clear()

    def write(self, name: str, value: Tensor) -> None:
        """Give a parameter or buffer other numbers: in place where its shape stays, so that optimizers go on;
        else a new one, which whoever shared the old one gets too."""
        owner, attribute = self._owner(name)
        old = getattr(owner, attribute)
        value = value.to(device=old.device, dtype=old.dtype)
        if old.shape == value.shape:
            kept = old.detach().clone()
            self.undos.append(lambda: _copy(old, kept))
            _copy(old, value)
            return
        self.resized.append(Resized(name, tuple(old.shape), tuple(value.shape)))
        table = owner._parameters if isinstance(old, nn.Parameter) else owner._buffers
        new: Tensor = value.contiguous().clone()
        if isinstance(old, nn.Parameter):
            new = self._shared.setdefault(id(old), nn.Parameter(new, requires_grad=old.requires_grad))
        table[attribute] = new  # type: ignore[assignment]
        self.undos.append(lambda: table.__setitem__(attribute, old))

    def resize(self, name: str, part: Part, flags: Flags) -> None:
        """Cut a parameter, and tell its layer."""
        value, groups = part.cut(flags)
        before = len(self.resized)
        self.write(name, value)
        if len(self.resized) > before:
            owner, attribute = self._owner(name)
            for size, number in sizes_after(owner, attribute, value.shape, groups):
                self._set(owner, size, number)

    def set_number(self, name: str, old: int, new: int) -> None:
        """Change a number that the module's code reads."""
        owner, attribute = self._owner(name)
        self._set(owner, attribute, new)
        self.attributes.append((name, old, new))

    def _set(self, owner: nn.Module, attribute: str, value: int) -> None:
        old = getattr(owner, attribute)
        setattr(owner, attribute, value)
        self.undos.append(lambda: setattr(owner, attribute, old))

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        owner, _, attribute = name.rpartition(".")
        return self.owners[owner], attribute


@contextmanager
def put_back_on_error(changes: Changes) -> Iterator[None]:
    """A module is changed wholly or not at all."""
    try:
        yield
    except BaseException:
        changes.undo()
        raise


def numbers_to_change(
    module: nn.Module, parts: Mapping[str, Part], counts: tuple[Count, ...], flags: Flags
) -> list[Attribute] | None:
    """Numbers of modules (of heads, of channels per head) that count channels which go.

    A number is one if the graph counts the same channels beside a layer of that module, and the number is the
    one that the graph had. This guesses; whether it was right is for the proof to say.

    Returns:
        (name, before, after); None where a number would have to be two.
    """
    wanted: dict[str, tuple[int, int]] = {}
    owners = dict(module.named_modules())
    for count in counts:
        if count.old == count.new or flags[count.classes].all():
            continue
        hit = np.zeros_like(flags)
        hit[count.classes] = True
        layers = {
            name.rpartition(".")[0]
            for name, part in parts.items()
            if any(hit[ids].any() for ids in part.axes.values())
        }
        # A parameter may be its module's own, beside the numbers, or that of a layer in it.
        own = {name for name in layers if not type(owners[name]).__module__.startswith("torch.")}
        places = own | {name.rpartition(".")[0] for name in layers}
        for place in sorted(places):
            for attribute, value in vars(owners[place]).items():
                if type(value) is int and value == count.old:
                    name = f"{place}.{attribute}" if place else attribute
                    if wanted.setdefault(name, (count.old, count.new)) != (count.old, count.new):
                        return None
    return [(name, old, new) for name, (old, new) in wanted.items()]


def _copy(target: Tensor, source: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)
