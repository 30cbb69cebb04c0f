"""A run's setting, told to an executor's workers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evonnx.evolution.beginning import Case
from evonnx.evolution.crew import Circumstances, Crew, share_model
from evonnx.evolution.raising import kept_multiple
from evonnx.evolution.setting import Setting
from evonnx.executors import Executor


def staffed(
    setting: Setting, case: Case, executor: Executor | None, configuration: Mapping[str, Any]
) -> Setting:
    """A setting whose offspring are screened and raised by an executor; as it is without one.

    Args:
        setting: of the run.
        case: what the user gave.
        executor: an open one.
        configuration: of the run, whose versions and machine workers are held to.
    """
    if executor is None:
        return setting
    trainer, model = setting.trainer, case.model
    circumstances = Circumstances(
        run=uuid.uuid4().hex,
        ancestor=share_model(executor, model.absolute()),
        ancestor_name=model.name,
        task_file=None if case.task_file is None else str(case.task_file.absolute()),
        folder=str(Path.cwd()),
        adapter=case.options.retraining.adapter,
        adapter_options=trainer.options,
        training=setting.training,
        threads=setting.judge.threads,
        input_shapes=dict(case.options.input_shapes),
        align=kept_multiple(setting),
        factor=next(iter(case.options.pressure.budget), setting.budgeting.leading.name),
        warnings_ancestor=setting.warnings_ancestor,
        timeout=trainer.timeout,
        versions=configuration["versions"],
        machine=configuration["machine"],
    )
    checkpoints = None
    if executor.same_disk and trainer.checkpoints is not None:
        checkpoints = trainer.checkpoints.absolute()
    return replace(setting, crew=Crew(executor, circumstances, checkpoints))
