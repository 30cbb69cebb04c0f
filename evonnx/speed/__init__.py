"""Measured latency in onnxruntime: models take turns in random order, so that a busy machine slows all alike.

Each sample is the mean of as many runs as take a millisecond or more, after one that is not timed; each round
takes one sample of every model. Ratios are made within rounds, then their median is taken, which a drifting
clock rate does not bias. On a GPU inputs and outputs stay on the device, where that can be done for all
models; `BenchResult.copies` says whether it was.

`measuring` is the edge: it makes sessions, runs them and reads the clock. `running`, `binding`, `profiling`,
`memory` (with `resident`, a process per model), `readings`, `gpu` and `precision` touch one thing outside
each; `turns`, `agreement`, `layers`, `noise`, `placing` and `feeding` compute on what they are given;
`records` is what comes out.
"""

from evonnx.speed.feeding import feeds_for
from evonnx.speed.machine import arithmetic_of, environment
from evonnx.speed.measuring import bench
from evonnx.speed.precision import Precision
from evonnx.speed.profiling import profile_nodes
from evonnx.speed.records import BenchResult, Latency, NodeTime, Timed
from evonnx.speed.turns import (
    BATCH_SECONDS,
    SAMPLE_SECONDS,
    WARM_UP_SECONDS,
    Clock,
    one_sample,
    summarise,
    take_turns,
    warm_up,
)

__all__ = [
    "BATCH_SECONDS",
    "SAMPLE_SECONDS",
    "WARM_UP_SECONDS",
    "BenchResult",
    "Clock",
    "Latency",
    "NodeTime",
    "Precision",
    "Timed",
    "arithmetic_of",
    "bench",
    "environment",
    "feeds_for",
    "one_sample",
    "profile_nodes",
    "summarise",
    "take_turns",
    "warm_up",
]
