"""Physical removal: a plan as frozen, printable data, and the mechanical step that applies it."""

from evonnx.compaction.apply import apply_plan
from evonnx.compaction.lineage import compose_lineage, read_lineage, write_lineage
from evonnx.compaction.placing import kept_by_axis, places
from evonnx.compaction.plan import Compacted, Lineage, Plan
from evonnx.compaction.planner import plan_compaction
from evonnx.compaction.pricing import PaddingPrice, price_padding

__all__ = [
    "Compacted",
    "Lineage",
    "PaddingPrice",
    "Plan",
    "apply_plan",
    "compose_lineage",
    "kept_by_axis",
    "places",
    "plan_compaction",
    "price_padding",
    "read_lineage",
    "write_lineage",
]
