"""The `command` adapter: any program of yours retrains, in any framework."""

from evonnx_command.adapter import CommandAdapter

__all__ = ["CommandAdapter"]
