"""LSTM, GRU and RNN on torch's fused kernels; ONNX orders the gates differently."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder


def _check(call: Call, activations: tuple[str, ...], gates: int) -> tuple[int, int, str]:
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
    hidden = call.shape(2)[-1]
    # The fused kernels trust their operands: a wrong size would read beyond them.
    sizes = {
        1: (directions, gates * hidden, call.shape(0)[-1]),
        2: (directions, gates * hidden, hidden),
        3: (directions, 2 * gates * hidden),
    }
    if call.rank(0) != 3 or any(call.has(i) and call.shape(i) != size for i, size in sizes.items()):
        raise Unsupported("weights do not fit together")
    return hidden, directions, direction


def _start(call: Call, port: int, want: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """What makes a given initial state fit the batch; a constant one written for the declared batch is
    repeated."""
    have = call.shape(port)
    if have == want:
        return lambda state: state.contiguous()
    state = call.example(port)
    alike = call.known(port) and state.ndim == 3 and bool((state == state[:, :1]).all())
    if not (call.batch and alike and have == (want[0], call.batch[0], want[2])):
        raise Unsupported(f"an initial state of shape {list(have)}, not {list(want)}")
    return lambda state: state[:, :1].expand(want).contiguous()


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


def _recurrent(
    call: Call,
    function: Callable[..., tuple[Tensor, ...]],
    gates: tuple[int, ...],
    activations: tuple[str, ...],
    states: tuple[int, ...],
) -> Emit:
    """Args: torch's kernel, its order of ONNX's gates, the activations it computes, and the inputs that hold
    initial states."""
    hidden, directions, direction = _check(call, activations, len(gates))
    arrange = _reordered(gates, hidden, directions, call.example(0).device)
    want = (directions, call.shape(0)[1], hidden)
    starts = {port: _start(call, port, want) for port in states if call.has(port)}
    biased, backward = call.has(3), direction == "reverse"

    def kernel(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        optional = iter(rest)
        b = next(optional) if biased else None
        given = {port: fit(next(optional)) for port, fit in starts.items()}
        initial = [given[port] if port in given else x.new_zeros(want) for port in states]
        x = x.flip(0) if backward else x
        y, *last = function(
            x,
            initial if len(initial) > 1 else initial[0],
            arrange(w, r, b),
            biased,
            1,
            0.0,
            torch.is_grad_enabled(),
            directions == 2,
            False,
        )
        y = y.flip(0) if backward else y
        return _per_direction(y, directions, hidden), *last

    return call.emit(kernel, 0, 1, 2, *([3] if biased else []), *starts)


@builder("LSTM")
def lstm(call: Call) -> Emit:
    """Gates in order input, output, forget, cell."""
    return _recurrent(call, torch.lstm, (0, 2, 3, 1), ("sigmoid", "tanh", "tanh"), (5, 6))


@builder("GRU")
def gru(call: Call) -> Emit:
    """Gates in order update, reset, hidden."""
    if not call.attr("linear_before_reset", 0):
        raise Unsupported("linear_before_reset = 0")
    return _recurrent(call, torch.gru, (1, 0, 2), ("sigmoid", "tanh"), (5,))


@builder("RNN")
def rnn(call: Call) -> Emit:
    """One gate, tanh or relu."""
    first = str((call.attr("activations") or ("tanh",))[0]).lower()
    if first == "relu":
        return _recurrent(call, torch.rnn_relu, (0,), ("relu",), (5,))
    return _recurrent(call, torch.rnn_tanh, (0,), ("tanh",), (5,))
