"""onnxruntime sessions: made where they were asked to run or refused, fed, run, and their words read."""

from evonnx.sessions.devices import CPU, CUDA, TENSORRT, missing_gpu, placement
from evonnx.sessions.inputs import InputSpec, concrete_shape, input_specs, random_array
from evonnx.sessions.log import captured_stderr, clean_message
from evonnx.sessions.making import (
    default_threads,
    give_back_memory,
    load_warnings,
    make_session,
    probe_model,
    resolve_providers,
    versions,
    working_providers,
)
from evonnx.sessions.running import LOOP_SECONDS, EndlessError, run_session

__all__ = [
    "CPU",
    "CUDA",
    "LOOP_SECONDS",
    "TENSORRT",
    "EndlessError",
    "InputSpec",
    "captured_stderr",
    "clean_message",
    "concrete_shape",
    "default_threads",
    "give_back_memory",
    "input_specs",
    "load_warnings",
    "make_session",
    "missing_gpu",
    "placement",
    "probe_model",
    "random_array",
    "resolve_providers",
    "run_session",
    "versions",
    "working_providers",
]
