"""LSTM, GRU and RNN on torch's fused kernels; ONNX orders the gates differently."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder

_LSTM_ACTIVATIONS = ("sigmoid", "tanh", "tanh")
_GRU_ACTIVATIONS = ("sigmoid", "tanh")


def _check(call: Call, activations: tuple[str, ...]) -> tuple[int, int, str]:
    """(hidden size, directions, direction); refuses what the fused kernels cannot do."""
    direction = call.attr("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    given = tuple(str(a).lower() for a in call.attr("activations") or ())
    if given and given != activations * directions:
        raise Unsupported(f"activations {list(given)}")
    if call.attr("clip") is not None or call.attr("layout", 0) or call.attr("input_forget", 0):
        raise Unsupported("clip, layout or input_forget")
    if call.has(4) and (not call.known(4) or any(n != call.shape(0)[0] for n in call.ints(4))):
        raise Unsupported("sequence_lens")
    if call.has(7):
        raise Unsupported("peepholes")
    return call.shape(2)[2], directions, direction


def _reordered(
    gates: tuple[int, ...], hidden: int, directions: int, device: torch.device
) -> Callable[..., list[Tensor]]:
    """Weights per direction as torch's kernels take them: input, recurrent, and their biases."""
    rows = torch.cat([torch.arange(g * hidden, (g + 1) * hidden) for g in gates]).to(device)
    size = len(gates) * hidden

    def arrange(w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
        flat = []
        for d in range(directions):
            flat += [w[d].index_select(0, rows), r[d].index_select(0, rows)]
            if b is not None:
                flat += [b[d, :size].index_select(0, rows), b[d, size:].index_select(0, rows)]
        return flat

    return arrange


def _per_direction(y: Tensor, directions: int, hidden: int) -> Tensor:
    """(T, B, D * H) to ONNX's (T, D, B, H)."""
    return y.reshape(y.shape[0], y.shape[1], directions, hidden).permute(0, 2, 1, 3)


@builder("LSTM")
def lstm(call: Call) -> Emit:
    """Gates in order input, output, forget, cell."""
    hidden, directions, direction = _check(call, _LSTM_ACTIVATIONS)
    arrange = _reordered((0, 2, 3, 1), hidden, directions, call.example(0).device)
    has = tuple(call.has(i) for i in (3, 5, 6))
    reads = (0, 1, 2, *(i for i, given in zip((3, 5, 6), has, strict=True) if given))
    backward = direction == "reverse"

    def kernel(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        optional = iter(rest)
        b, h, c = (next(optional) if given else None for given in has)
        zeros = x.new_zeros(directions, x.shape[1], hidden)
        state = [(zeros if h is None else h).contiguous(), (zeros if c is None else c).contiguous()]
        x = x.flip(0) if backward else x
        y, h, c = torch.lstm(
            x, state, arrange(w, r, b), b is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2, False
        )
        y = y.flip(0) if backward else y
        return _per_direction(y, directions, hidden), h, c

    return call.emit(kernel, *reads)


@builder("GRU")
def gru(call: Call) -> Emit:
    """Gates in order update, reset, hidden."""
    hidden, directions, direction = _check(call, _GRU_ACTIVATIONS)
    if not call.attr("linear_before_reset", 0):
        raise Unsupported("linear_before_reset = 0")
    arrange = _reordered((1, 0, 2), hidden, directions, call.example(0).device)
    has = tuple(call.has(i) for i in (3, 5))
    reads = (0, 1, 2, *(i for i, given in zip((3, 5), has, strict=True) if given))
    backward = direction == "reverse"

    def kernel(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        optional = iter(rest)
        b, h = (next(optional) if given else None for given in has)
        state = x.new_zeros(directions, x.shape[1], hidden) if h is None else h.contiguous()
        x = x.flip(0) if backward else x
        y, h = torch.gru(
            x, state, arrange(w, r, b), b is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2, False
        )
        y = y.flip(0) if backward else y
        return _per_direction(y, directions, hidden), h

    return call.emit(kernel, *reads)


@builder("RNN")
def rnn(call: Call) -> Emit:
    """One gate, tanh or relu."""
    named = [str(a).lower() for a in call.attr("activations") or ("tanh",)]
    function = torch.rnn_relu if named[0] == "relu" else torch.rnn_tanh
    hidden, directions, direction = _check(call, ("relu" if named[0] == "relu" else "tanh",))
    arrange = _reordered((0,), hidden, directions, call.example(0).device)
    has = tuple(call.has(i) for i in (3, 5))
    reads = (0, 1, 2, *(i for i, given in zip((3, 5), has, strict=True) if given))
    backward = direction == "reverse"

    def kernel(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        optional = iter(rest)
        b, h = (next(optional) if given else None for given in has)
        state = x.new_zeros(directions, x.shape[1], hidden) if h is None else h.contiguous()
        x = x.flip(0) if backward else x
        y, h = function(
            x, state, arrange(w, r, b), b is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2, False
        )
        y = y.flip(0) if backward else y
        return _per_direction(y, directions, hidden), h

    return call.emit(kernel, *reads)
