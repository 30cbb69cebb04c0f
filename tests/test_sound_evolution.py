"""A keyword spotter on sounds, trained, evolved and pruned, from files to ONNX."""

from __future__ import annotations

from evonnx.compaction import compact, plan_compaction  # noqa: F401
