"""The generation loop (design: sections 1 and 5)."""

from evonnx.evolution.loop import Run, evolve
from evonnx.evolution.options import EvolveOptions, Observer, Pressure, Retraining, Selection

__all__ = ["EvolveOptions", "Observer", "Pressure", "Retraining", "Run", "Selection", "evolve"]
