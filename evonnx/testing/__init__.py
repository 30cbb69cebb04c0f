"""Contract tests for plugins, and a toy adapter for fast tests of everything around an adapter.

Subclass a contract in your own test suite, override its fixtures, and pytest finds the rest:

    from evonnx.testing import AdapterContract

    class TestMyAdapter(AdapterContract):
        @pytest.fixture
        def adapter(self):
            return MyAdapter()

The contracts need pytest; `ToyAdapter` and `TinyTask` do not (`evonnx evolve ... --adapter
evonnx.testing:ToyAdapter`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonnx.testing.adapter_contract import AdapterContract
    from evonnx.testing.encoding_contract import EncodingContract
    from evonnx.testing.environment_contract import EnvironmentFactorContract
    from evonnx.testing.executor_contract import ExecutorContract
    from evonnx.testing.models import TinyTask, tiny_classifier
    from evonnx.testing.rule_contract import DependencyRuleContract
    from evonnx.testing.task_contract import TaskContract
    from evonnx.testing.toy import ToyAdapter
    from evonnx.testing.tracker_contract import Tracked, TrackerContract

__all__ = [
    "AdapterContract",
    "DependencyRuleContract",
    "EncodingContract",
    "EnvironmentFactorContract",
    "ExecutorContract",
    "TaskContract",
    "TinyTask",
    "ToyAdapter",
    "Tracked",
    "TrackerContract",
    "tiny_classifier",
]

_HOMES = {
    "AdapterContract": "adapter_contract",
    "DependencyRuleContract": "rule_contract",
    "EncodingContract": "encoding_contract",
    "EnvironmentFactorContract": "environment_contract",
    "ExecutorContract": "executor_contract",
    "TaskContract": "task_contract",
    "TinyTask": "models",
    "ToyAdapter": "toy",
    "Tracked": "tracker_contract",
    "TrackerContract": "tracker_contract",
    "tiny_classifier": "models",
}


def __getattr__(name: str) -> Any:
    """Import on demand, so that the toy adapter does not need pytest."""
    if name not in _HOMES:
        raise AttributeError(f"module 'evonnx.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"evonnx.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What can be imported, loaded or not."""
    return __all__
