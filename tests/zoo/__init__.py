"""The zoo: small architectures of every family that is deployed, exported with random weights.

One row per architecture; a builder is imported when it is first called, so the table costs nothing to read.
`zoo.exporting` turns a row into an ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """One row: who builds it and what it is fed."""

    builder: str
    """"module:function" inside this package."""
    inputs: dict[str, Shape]
    """Shape of one batch by input name; integer ids where the name says so."""
    ids: int = 0
    """Inputs named input_ids hold numbers below this."""
    dynamic: dict[str, tuple[int, ...]] | None = None
    """Dynamic axes by input name; None: the first of each."""
    dynamo_dynamic: bool = False
    """Whether the dynamo exporter is asked for a dynamic batch too."""

    def build(self) -> nn.Module:
        """The module, as its own initialisation leaves it."""
        module, name = self.builder.split(":")
        make: Callable[[], Any] = getattr(import_module(f"zoo.{module}"), name)
        return make()


def _image(builder: str, size: int = 32, *, free: bool = False, dynamo: bool = False) -> Architecture:
    """An image network; `free`: height and width are dynamic too."""
    axes = (0, 2, 3) if free else (0,)
    return Architecture(builder, {"image": (2, 3, size, size)}, 0, {"image": axes}, dynamo)


def _text(builder: str, *names: str, dynamo: bool = False) -> Architecture:
    names = names or ("input_ids",)
    axes = dict.fromkeys(names, (0, 1))
    return Architecture(builder, dict.fromkeys(names, (2, 12)), 60, axes, dynamo)


ZOO: dict[str, Architecture] = {
    "alexnet-lrn": _image("classics:AlexNet"),
    "bert": _text("configured:bert", "input_ids", "attention_mask"),
    "clip-text": _text("configured:clip_text"),
    "convnext": _image("configured:convnext", dynamo=True),
    "convnext-v2": _image("configured:convnext_v2"),
    "csp-darknet": _image("detectors:csp_darknet", free=True),
    "cvt": _image("configured:cvt"),
    "deeplab": _image("images:DeepLab"),
    "deit": _image("configured:deit"),
    "densenet": _image("branches:densenet", dynamo=True),
    "dinov2-swiglu": _image("configured:dinov2"),
    "dla": _image("branches:dla"),
    "edgenext": _image("mixers:edgenext"),
    "efficientnet": _image("configured:efficientnet"),
    "einsum-attention": _image("mixers:EinsumAttention"),
    "fastvit": _image("mobile:fastvit"),
    "ghostnet": _image("mobile:ghostnet", dynamo=True),
    "gpt2": _text("configured:gpt2", "input_ids", "attention_mask"),
    "groupnorm": _image("residual:groupnorm_net"),
    "gru-reader": _image("classics:gru_reader"),
    "hrnet": _image("branches:HighResolution", free=True),
    "inception": _image("branches:inception"),
    "instancenorm-style": _image("images:Stylizer"),
    "levit": _image("configured:levit", 64),
    "llama": _text("configured:llama", "input_ids", "attention_mask"),
    "lstm-reader": _image("classics:lstm_reader"),
    "mlp-mixer": _image("mixers:MlpMixer", dynamo=True),
    "mobilenet-v1": _image("configured:mobilenet_v1"),
    "mobilenet-v2": _image("configured:mobilenet_v2", dynamo=True),
    "mobilenet-v3": _image("mobile:mobilenet_v3"),
    "mobilevit": _image("configured:mobilevit", 64),
    "nfnet": _image("residual:nfnet"),
    "poolformer": _image("configured:poolformer"),
    "prelu": _image("residual:prelu_net"),
    "regnet": _image("configured:regnet"),
    "res2net": _image("residual:res2net", dynamo=True),
    "resnet-bottleneck": _image("configured:resnet_bottleneck", dynamo=True),
    "resnet-option-a": _image("residual:resnet_option_a", free=True, dynamo=True),
    "resnext": _image("residual:resnext"),
    "segformer": _image("configured:segformer"),
    "senet": _image("residual:senet"),
    "shufflenet-v1": _image("mobile:shufflenet_v1"),
    "shufflenet-v2": _image("mobile:shufflenet_v2", free=True, dynamo=True),
    "super-resolution": _image("images:SuperResolution", free=True),
    "swiftformer": _image("configured:swiftformer", 64),
    "swin": _image("configured:swin"),
    "t5-encoder": _text("configured:t5_encoder"),
    "unet-resize": _image("images:unet_resize", free=True),
    "unet-transposed": _image("images:unet_transposed", free=True, dynamo=True),
    "vit": _image("configured:vit", dynamo=True),
    "wav2vec2": Architecture("configured:wav2vec2", {"input_values": (2, 400)}),
    "yolo11": _image("detectors:yolo11", 64),
    "yolov5": _image("detectors:Yolo5", 64),
    "yolov8": _image("detectors:Yolo8", 64, free=True),
}
