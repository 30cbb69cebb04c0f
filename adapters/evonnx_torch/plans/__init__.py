"""Plans of `evonnx plan` carried over to the torch module that the ancestor was exported from."""

from evonnx_torch.plans.applying import apply_plan
from evonnx_torch.plans.report import Applied, Resized

__all__ = ["Applied", "Resized", "apply_plan"]
