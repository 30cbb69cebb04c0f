"""Architectures of the transformers library, at tiny configurations and with random weights."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn

IMAGE: dict[str, Any] = {"image_size": 32, "num_labels": 10}
"""For configurations that know the image's size."""
NARROW: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
"""Width, depth and heads of a plain encoder; 8 channels a head."""
TEXT: dict[str, Any] = {"vocab_size": 60, "max_position_embeddings": 32}


class Plain(nn.Module):
    """A model of the library with positional inputs and a tuple of the named outputs."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, first: Tensor, second: Tensor | None = None) -> tuple[Tensor, ...]:
        given = (first,) if second is None else (first, second)
        found = self.model(**dict(zip(self.inputs, given, strict=True)))
        return tuple(found[name] for name in self.outputs)


def _model(
    family: str,
    head: str,
    inputs: tuple[str, ...] = ("pixel_values",),
    outputs: tuple[str, ...] = ("logits",),
    attention: str | None = None,
    **settings: Any,
) -> nn.Module:
    config = getattr(transformers, f"{family}Config")(**settings)
    if attention:
        config._attn_implementation = attention
    return Plain(getattr(transformers, f"{family}{head}")(config), inputs, outputs)


def vit() -> nn.Module:
    return _model("ViT", "ForImageClassification", patch_size=8, **NARROW, **IMAGE)


def deit() -> nn.Module:
    """Two tokens; both heads are outputs."""
    outputs = ("cls_logits", "distillation_logits")
    head = "ForImageClassificationWithTeacher"
    return _model("DeiT", head, outputs=outputs, attention="eager", patch_size=8, **NARROW, **IMAGE)


def dinov2() -> nn.Module:
    """Layer scale and SwiGLU."""
    settings = {"patch_size": 8, "mlp_ratio": 2, "use_swiglu_ffn": True, **NARROW, **IMAGE}
    del settings["intermediate_size"]
    return _model("Dinov2", "ForImageClassification", **settings)


def swin() -> nn.Module:
    """Shifted windows: at 8 x 8 tokens and windows of 4 every second block rolls."""
    return _model(
        "Swin",
        "ForImageClassification",
        patch_size=4,
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 3],
        window_size=4,
        mlp_ratio=2.0,
        **IMAGE,
    )


def convnext() -> nn.Module:
    return _model("ConvNext", "ForImageClassification", hidden_sizes=[12, 20], depths=[1, 1], num_stages=2)


def convnext_v2() -> nn.Module:
    """With global response normalisation."""
    return _model("ConvNextV2", "ForImageClassification", hidden_sizes=[12, 20], depths=[1, 1], num_stages=2)


def segformer() -> nn.Module:
    """Semantic segmentation: attention on reduced keys, depthwise convolutions inside the MLPs."""
    return _model(
        "Segformer",
        "ForSemanticSegmentation",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 24],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 3],
        mlp_ratios=[2, 2],
        decoder_hidden_size=24,
        num_labels=4,
    )


def mobilevit() -> nn.Module:
    return _model(
        "MobileViT",
        "ForImageClassification",
        patch_size=2,
        hidden_sizes=[16, 24, 24],
        neck_hidden_sizes=[8, 8, 12, 16, 16, 16, 32],
        num_attention_heads=2,
        mlp_ratio=2.0,
        expand_ratio=2.0,
        image_size=64,
        num_labels=10,
    )


def levit() -> nn.Module:
    """BatchNorm after linear layers, keys narrower than values, attention that subsamples."""
    return _model(
        "Levit",
        "ForImageClassification",
        image_size=64,
        hidden_sizes=[16, 24],
        num_attention_heads=[2, 3],
        depths=[1, 1],
        key_dim=[8, 8],
        drop_path_rate=0,
        mlp_ratio=[2, 2],
        attention_ratio=[2, 2],
        down_ops=[["Subsample", 8, 2, 4, 2, 2], [""]],
        num_labels=10,
    )


def poolformer() -> nn.Module:
    """Pooling as token mixer, GroupNorm with one group."""
    return _model(
        "PoolFormer",
        "ForImageClassification",
        hidden_sizes=[12, 16],
        depths=[1, 1],
        num_encoder_blocks=2,
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
        mlp_ratio=2.0,
        num_labels=10,
    )


def swiftformer() -> nn.Module:
    """Additive attention with a single global query."""
    return _model(
        "SwiftFormer",
        "ForImageClassification",
        image_size=64,
        depths=[1, 1, 1, 1],
        embed_dims=[8, 12, 16, 20],
        mlp_ratio=2,
        num_labels=10,
    )


def cvt() -> nn.Module:
    """Convolutional projections of q, k and v."""
    return _model(
        "Cvt",
        "ForImageClassification",
        embed_dim=[12, 24],
        num_heads=[1, 2],
        depth=[1, 2],
        mlp_ratio=[2.0, 2.0],
        patch_sizes=[7, 3],
        patch_stride=[4, 2],
        patch_padding=[2, 1],
        attention_drop_rate=[0.0, 0.0],
        drop_rate=[0.0, 0.0],
        drop_path_rate=[0.0, 0.0],
        qkv_bias=[True, True],
        cls_token=[False, True],
        qkv_projection_method=["dw_bn", "dw_bn"],
        kernel_qkv=[3, 3],
        padding_kv=[1, 1],
        stride_kv=[2, 2],
        padding_q=[1, 1],
        stride_q=[1, 1],
        num_labels=10,
    )


def resnet_bottleneck() -> nn.Module:
    return _model(
        "ResNet",
        "ForImageClassification",
        embedding_size=16,
        hidden_sizes=[32, 48],
        depths=[2, 2],
        layer_type="bottleneck",
        num_labels=10,
    )


def regnet() -> nn.Module:
    """The y form, with squeeze-excite; groups of 8."""
    return _model(
        "RegNet",
        "ForImageClassification",
        embedding_size=8,
        hidden_sizes=[16, 24],
        depths=[1, 2],
        groups_width=8,
        layer_type="y",
        num_labels=10,
    )


def mobilenet_v1() -> nn.Module:
    return _model("MobileNetV1", "ForImageClassification", depth_multiplier=0.125, min_depth=4, **IMAGE)


def mobilenet_v2() -> nn.Module:
    return _model(
        "MobileNetV2", "ForImageClassification", depth_multiplier=0.25, min_depth=4, tf_padding=False, **IMAGE
    )


def efficientnet() -> nn.Module:
    return _model(
        "EfficientNet",
        "ForImageClassification",
        width_coefficient=0.25,
        depth_coefficient=1.0,
        depth_divisor=4,
        hidden_dim=320,
        in_channels=[32, 16, 24, 40],
        out_channels=[16, 24, 40, 80],
        kernel_sizes=[3, 3, 5, 3],
        strides=[1, 2, 2, 1],
        num_block_repeats=[1, 2, 1, 1],
        expand_ratios=[1, 4, 4, 4],
        depthwise_padding=[],
        **IMAGE,
    )


def bert() -> nn.Module:
    """With an attention mask as second input."""
    inputs = ("input_ids", "attention_mask")
    return _model("Bert", "ForSequenceClassification", inputs, num_labels=3, **NARROW, **TEXT)


def gpt2() -> nn.Module:
    settings = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32, "vocab_size": 60}
    return _model("GPT2", "LMHeadModel", ("input_ids", "attention_mask"), use_cache=False, **settings)


def llama() -> nn.Module:
    """Rotary positions, RMS norm, SwiGLU, two query heads to a key head."""
    settings = {**NARROW, **TEXT, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    return _model(
        "Llama", "ForCausalLM", ("input_ids", "attention_mask"), use_cache=False, pad_token_id=0, **settings
    )


def clip_text() -> nn.Module:
    settings = {**NARROW, **TEXT, "projection_dim": 16, "bos_token_id": 0, "eos_token_id": 2}
    return _model("CLIPText", "ModelWithProjection", ("input_ids",), ("text_embeds",), **settings)


def t5_encoder() -> nn.Module:
    """Relative position bias shared by all layers, RMS norm, gated MLP."""
    return _model(
        "T5",
        "EncoderModel",
        ("input_ids",),
        ("last_hidden_state",),
        vocab_size=60,
        d_model=24,
        d_kv=8,
        d_ff=40,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        use_cache=False,
    )


def wav2vec2() -> nn.Module:
    """Convolutions along time, weight norm on the positional one, then an encoder."""
    return _model(
        "Wav2Vec2",
        "ForCTC",
        ("input_values",),
        conv_dim=(12, 16),
        conv_kernel=(10, 4),
        conv_stride=(5, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        vocab_size=20,
        **NARROW,
    )
