"""Detection as a kind of task: labels, targets, decoding and metrics, one module each."""

from evonnx.tasks.detection.task import DetectionTask

__all__ = ["DetectionTask"]
