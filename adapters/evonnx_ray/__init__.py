"""The `ray` executor: offspring are screened and raised on a Ray cluster."""

from evonnx_ray.executor import RayExecutor

__all__ = ["RayExecutor"]
