"""The JAX adapter: retrain an ONNX model in JAX without leaving its graph."""

from evonnx_jax.adapter import JaxAdapter

__all__ = ["JaxAdapter"]
