"""Synthesis: offspring drawn from a genome under a budget (equation 3)."""

from evonnx.synthesis.alignment import Alignment, Relaxed
from evonnx.synthesis.sampling import Sample, sample, synthesize
from evonnx.synthesis.solution import Solution, rounds, solve

__all__ = ["Alignment", "Relaxed", "Sample", "Solution", "rounds", "sample", "solve", "synthesize"]
