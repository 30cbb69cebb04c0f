"""What became of an ancestor's weights, as data for the module that it was exported from.

`make_plan` derives it from ancestor and offspring, `save_plan` and `load_plan` keep it in a file, `lay_out`
puts an offspring's weights back into the ancestor's shapes. Applying a plan to a module is an adapter's part.
"""

from evonnx.module_plan.layout import lay_out
from evonnx.module_plan.making import make_plan
from evonnx.module_plan.plan import Count, InputPlan, ModulePlan, TensorPlan
from evonnx.module_plan.sketch import Sketch, is_same, sketch
from evonnx.module_plan.storing import load_plan, save_plan

__all__ = [
    "Count",
    "InputPlan",
    "ModulePlan",
    "Sketch",
    "TensorPlan",
    "is_same",
    "lay_out",
    "load_plan",
    "make_plan",
    "save_plan",
    "sketch",
]
