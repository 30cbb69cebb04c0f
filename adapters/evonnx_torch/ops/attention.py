"""Attention and RotaryEmbedding as single operators (opset 23).

Attention: softmax(softcap(Q K^T * scale) + mask) V per head, heads on axis 1 of 4-D operands or side by side
on the last axis of 3-D ones; with fewer key heads than query heads, each key head serves a run of neighbours.
RotaryEmbedding: pairs (x1, x2) of a head's entries become (x1 cos - x2 sin, x2 cos + x1 sin); a pair is
(i, i + d/2), or neighbours when interleaved.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evonnx_torch.ops._base import Call, Emit, Unsupported, builder


def _heads(x: Tensor, count: int | None) -> Tensor:
    """(B, T, heads * d) to (B, heads, T, d); 4-D operands are so already."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], int(count or 1), -1).transpose(1, 2)


@builder("Attention")
def attention(call: Call) -> Emit:
    """Outputs: the result, and keys and values with the past ones before them."""
    if any(call.outputs[3:]):
        raise Unsupported("the output qk_matmul_output")
    if call.has(6):
        raise Unsupported("nonpad_kv_seqlen")
    query_heads, key_heads = call.attr("q_num_heads"), call.attr("kv_num_heads")
    causal, softcap = bool(call.attr("is_causal", 0)), float(call.attr("softcap", 0.0))
    scale = call.attr("scale")
    packed = call.rank(0) == 3
    has_mask, has_past = call.has(3), call.has(4)

    def kernel(query: Tensor, key: Tensor, value: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _heads(query, query_heads), _heads(key, key_heads), _heads(value, key_heads)
        mask = rest[0] if has_mask else None
        if has_past:
            k, v = torch.cat([rest[-2], k], 2), torch.cat([rest[-1], v], 2)
        shared = q.shape[1] // k.shape[1]
        keys, values = (k, v) if shared == 1 else (t.repeat_interleave(shared, 1) for t in (k, v))
        scores = q @ keys.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else float(scale))
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        if causal:
            past = k.shape[2] - q.shape[2] if has_past else 0
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(past)
            scores = scores.masked_fill(~seen, -torch.inf)
        if mask is not None:
            width = scores.shape[-1] - mask.shape[-1]
            if mask.dtype == torch.bool:
                mask = torch.nn.functional.pad(mask, (0, width), value=False) if width else mask
                scores = scores.masked_fill(~mask, -torch.inf)
            else:
                mask = torch.nn.functional.pad(mask, (0, width), value=-torch.inf) if width else mask
                scores = scores + mask
        if causal or mask is not None:
            # A query that may see no key gets zeros, as in onnxruntime, and passes no gradient.
            blind = (scores <= torch.finfo(scores.dtype).min).all(-1, keepdim=True)
            shares = torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)
        else:
            shares = torch.softmax(scores, -1)
        y = shares @ values
        return (y.transpose(1, 2).flatten(2) if packed else y), k, v

    return call.emit(kernel)


@builder("RotaryEmbedding")
def rotary_embedding(call: Call) -> Emit:
    """Caches hold one row per position, or per example and position where no positions are given."""
    heads, interleaved = call.attr("num_heads"), bool(call.attr("interleaved", 0))
    packed, positioned = call.rank(0) == 3, call.has(3)
    asked = int(call.attr("rotary_embedding_dim", 0))

    def kernel(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        y = _heads(x, heads)
        turned = asked or y.shape[-1]
        if positioned and positions is not None:
            cos, sin = cos[positions], sin[positions]
        cos, sin = cos[:, None, :, : turned // 2], sin[:, None, :, : turned // 2]
        part, rest = y[..., :turned], y[..., turned:]
        if interleaved:
            a, b = part[..., 0::2], part[..., 1::2]
            part = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
        else:
            a, b = part.chunk(2, -1)
            part = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        y = torch.cat([part, rest], -1)
        return y.transpose(1, 2).flatten(2) if packed else y

    return call.emit(kernel)
