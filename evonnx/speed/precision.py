"""Copies of a model in another precision, for timing; made in a temporary folder, kept in memory."""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from evonnx.errors import ModelError
from evonnx.network import Array
from evonnx.sessions import CPU, captured_stderr, clean_message, input_specs, make_session
from evonnx.speed.feeding import feeds_for

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

CALIBRATION_EXAMPLES = 16
"""Random examples, those that are timed and compared, whose activations set the scales of an int8 copy."""

_CHANNEL_OPSET = 13
"""The first in which weights can be quantised per channel; older models are converted."""
_CPUINFO = Path("/proc/cpuinfo")


def in_precision(
    path: Path,
    precision: str,
    *,
    provider: str = CPU,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> str | bytes:
    """What a session is made from: the file as it is ("fp32"), or a copy in memory with the same inputs.

    "fp16" is onnxruntime's float16 conversion. "int8" is its static quantisation: QuantizeLinear and
    DequantizeLinear around what can be computed in integers, weights per channel, activations calibrated on
    random inputs.

    Args:
        path: the file.
        precision: one of `PRECISIONS`.
        provider: that the copy will run on; it decides which 8-bit types are fast.
        seed: of the inputs for calibration.
        input_shapes: as for `feeds_for`.

    Raises:
        ModelError: the precision is unknown, or the model can't be converted.
    """
    if precision == "fp32":
        return str(path)
    if precision == "fp16":
        return _half(path)
    if precision == "int8":
        return _quantized(path, provider, seed, input_shapes)
    raise ModelError(f"Precision {precision!r} is not known; use {', '.join(PRECISIONS)}.")


def _half(path: Path) -> bytes:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with _quiet():
            converted = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        return bytes(converted.SerializeToString())
    except Exception as error:  # the converter raises whatever the graph makes it stumble over
        raise ModelError(
            f"{path} can't be converted to float16: {error}. Time it with --precision fp32."
        ) from error


def _quantized(
    path: Path, provider: str, seed: int, input_shapes: Mapping[str, Sequence[int]] | None
) -> bytes:
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

    session = make_session(path, threads=1)
    specs = input_specs(session)
    fixed = specs[0].shape[0] if specs and specs[0].shape else None
    batch = fixed if isinstance(fixed, int) else 1
    # The draws that outputs are compared on: ranges fit them, so what differs there is resolution.
    rng = np.random.default_rng([seed, 0])
    draws = iter(range(max(1, CALIBRATION_EXAMPLES // batch)))

    class Draws(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
        def get_next(self) -> dict[str, Array] | None:
            return None if next(draws, None) is None else feeds_for(specs, batch, rng, input_shapes)

    given = onnx.load(path, load_external_data=False)
    if _quantizers(given):
        raise ModelError(f"{path} is quantised already; time it as it is, with --precision fp32.")
    with tempfile.TemporaryDirectory(prefix="evonnx-") as folder, _quiet():
        source, prepared, target = (Path(folder) / name for name in ("old.onnx", "plain.onnx", "int8.onnx"))
        try:
            if _opset(given) < _CHANNEL_OPSET:
                onnx.save(onnx.version_converter.convert_version(onnx.load(path), _CHANNEL_OPSET), source)
            else:
                source = path
            # Fuses what would be quantised in pieces; symbolic shapes need a library that may be missing.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(target), Draws(), per_channel=True, **eight_bits(provider, *_processor())
            )
            copy = onnx.load(target)
        except Exception as error:  # the quantiser raises whatever the graph makes it stumble over
            raise ModelError(
                f"{path} can't be quantised to int8: {clean_message(error)}. Time it with --precision fp32."
            ) from error
    if not _quantizers(copy):
        raise ModelError(
            f"{path} has nothing that onnxruntime can quantise to int8; time it with --precision fp32."
        )
    return bytes(copy.SerializeToString())


def eight_bits(provider: str, machine: str, flags: Sequence[str]) -> dict[str, Any]:
    """`quantize_static`'s arguments for the 8-bit types that are fast and don't saturate.

    Args:
        provider: that will run the model.
        machine: the processor's architecture, such as "x86_64".
        flags: what the processor can do, as Linux calls it; () where that is not known.

    Returns:
        As onnxruntime's guide has it: signed and symmetric on GPUs; unsigned activations on x86-64, with
        weights of 7 bits where sums would saturate for want of VNNI instructions (or nobody knows); signed
        ones elsewhere.
    """
    from onnxruntime.quantization import QuantType

    x86 = machine.lower() in ("x86_64", "amd64")
    if provider != CPU:
        symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
        return {
            "activation_type": QuantType.QInt8,
            "weight_type": QuantType.QInt8,
            "reduce_range": False,
            "extra_options": symmetric,
        }
    return {
        "activation_type": QuantType.QUInt8 if x86 else QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "reduce_range": x86 and not {"avx512_vnni", "avx_vnni"} & set(flags),
    }


def _processor(cpuinfo: Path = _CPUINFO) -> tuple[str, list[str]]:
    """Architecture, and flags where Linux tells."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return platform.machine(), flags


def _opset(model: Any) -> int:
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def _quantizers(model: Any) -> int:
    """How many nodes of a graph quantise."""
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converters talk on standard output and error, through logging (which they set up), in warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with captured_stderr(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
