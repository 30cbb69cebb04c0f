"""Runs told to experiment trackers: MLflow, TensorBoard, or anything that follows `evonnx.tracker`.

from evonnx.tracking import Tracking, trackers

with Tracking(trackers(["tensorboard"])) as observer:
    evonnx.evolve("model.onnx", out="runs/mine", observer=observer)
"""

from evonnx.tracking.asking import Asked, trackers
from evonnx.tracking.observing import Tracking

__all__ = ["Asked", "Tracking", "trackers"]
