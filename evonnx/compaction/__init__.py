"""Physical removal: a plan as frozen, printable data, and the mechanical step that applies it."""

from evonnx.compaction.apply import apply_plan
from evonnx.compaction.lineage import compose_lineage, read_lineage, write_lineage
from evonnx.compaction.plan import Compacted, Lineage, Plan
from evonnx.compaction.planner import plan_compaction

__all__ = [
    "Compacted",
    "Lineage",
    "Plan",
    "apply_plan",
    "compose_lineage",
    "plan_compaction",
    "read_lineage",
    "write_lineage",
]
