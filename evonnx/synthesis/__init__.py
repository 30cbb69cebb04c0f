"""Synthesis: offspring drawn from a genome under a budget (equation 3)."""

from evonnx.synthesis.sampling import Sample, Solution, sample, solve, synthesize

__all__ = ["Sample", "Solution", "sample", "solve", "synthesize"]
