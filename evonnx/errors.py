"""The one family of errors that users are shown: what is wrong, where, and what to do."""

from __future__ import annotations


class EvonnxError(Exception):
    """Root of every error that evonnx raises on purpose.

    The message is one paragraph: what is wrong, in which file or node, and what to do about it.
    """


class ModelError(EvonnxError):
    """An ONNX file cannot be read, is invalid, or cannot be handled."""


class TaskError(EvonnxError):
    """A task file, its data, or a task class is wrong."""


class ScoreError(TaskError):
    """A model's score is not a number."""


class ModelMemoryError(ModelError):
    """There is not enough memory to run a model; less at a time may do."""


class AdapterError(EvonnxError):
    """An adapter is missing, failed, or returned weights that break the contract."""


class AdapterMemoryError(AdapterError):
    """An adapter ran out of memory, of the host or of a device; smaller batches may do."""


class AdapterDivergedError(AdapterError):
    """An adapter's training came to weights that are not finite; a lower learning rate may do."""


class AdapterHungError(AdapterError):
    """An adapter gave no sign of progress for longer than it was given."""


class BudgetError(EvonnxError):
    """A budget cannot be met; the message names the lowest reachable share."""


class ProofError(EvonnxError):
    """Masked and compact model differ, or the proof has no power (void)."""


class ProviderError(EvonnxError):
    """The requested onnxruntime execution provider cannot run here."""


class RunError(EvonnxError):
    """A run directory is unreadable, in use, or belongs to another configuration."""


class PlanError(EvonnxError):
    """A plan for a module cannot be read, or does not fit the module."""


class PluginError(EvonnxError):
    """A plugin is unknown or cannot be loaded."""


class ExecutorError(EvonnxError):
    """An executor cannot run what it is asked to run, or lost it too often."""
