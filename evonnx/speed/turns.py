"""Taking turns, and what is made of the samples: arithmetic on a clock that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evonnx.speed.records import Latency

Clock = Callable[[], float]

SAMPLE_SECONDS = 1e-3
"""Shortest time that one sample may take."""
WARM_UP_SECONDS = 1.0
"""Longest warm-up of one model at one batch size, after its first two runs."""
BATCH_SECONDS = 3.0
"""What the rounds of one model at one batch size may take where `rounds` is not given."""


def take_turns(
    runs: Sequence[Callable[[], None]], rounds: int | None, order: np.random.Generator, clock: Clock
) -> tuple[NDArray[np.float64], list[int]]:
    """Warm every model up, then sample all of them in each round, in random order.

    Args:
        runs: one call is one run of a model.
        rounds: how many; None: as many as fit `BATCH_SECONDS` per model, 10 to 100.
        order: draws the order within each round.
        clock: seconds.

    Returns:
        Seconds per run, shape (rounds, models), and how many runs each model's samples are the mean of.
    """
    warm = [warm_up(run, clock) for run in runs]
    repeats = [max(1, int(np.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))) for seconds in warm]
    if rounds is None:
        longest = max((1 + count) * seconds for count, seconds in zip(repeats, warm, strict=True))
        rounds = int(np.clip(BATCH_SECONDS / max(longest, 1e-7), 10, 100))
    times = np.zeros((rounds, len(runs)))
    for row in times:
        for index in order.permutation(len(runs)):
            row[index] = one_sample(runs[index], repeats[index], clock)
    return times, repeats


def one_sample(run: Callable[[], None], repeats: int, clock: Clock) -> float:
    """Seconds per run, over `repeats` of them.

    One more goes before, untimed: the model whose turn it was has filled the caches, and its idle threads
    keep the cores busy for a moment.
    """
    run()
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def warm_up(run: Callable[[], None], clock: Clock) -> float:
    """Run until five runs are within 5% of the five before (medians), or `WARM_UP_SECONDS` are over.

    Returns:
        Seconds per run, as last seen.
    """
    run()  # allocations and lazy initialisation
    began = clock()
    taken: list[float] = []
    while True:
        start = clock()
        run()
        taken.append(clock() - start)
        if clock() - began >= WARM_UP_SECONDS:
            break
        if len(taken) >= 10:
            before, now = np.median(taken[-10:-5]), np.median(taken[-5:])
            if abs(now - before) <= 0.05 * before:
                break
    return float(np.median(taken[-5:]))


def summarise(
    names: Sequence[str],
    batch: int,
    times: NDArray[np.float64],
    repeats: Sequence[int],
    seed: int,
    precisions: Sequence[str] | None = None,
) -> list[Latency]:
    """Medians, spreads and paired ratios of `take_turns`' samples, shape (rounds, models), in seconds.

    `precisions` are the models' own; None: "fp32" for all.
    """
    rng = np.random.default_rng([seed, 2])
    rounds = len(times)
    third = max(1, rounds // 3)
    resampled = rng.integers(0, rounds, size=(1000, rounds))
    rows = []
    for index, name in enumerate(names):
        own = times[:, index] * 1e3
        ratios = times[:, 0] / times[:, index]
        medians = np.median(ratios[resampled], axis=1)
        p10, median, p90 = np.percentile(own, [10, 50, 90])
        ratio_p10, ratio, ratio_p90 = np.percentile(ratios, [10, 50, 90])
        low, high = np.percentile(medians, [2.5, 97.5])
        rows.append(
            Latency(
                index=index,
                model=name,
                batch=batch,
                median_ms=float(median),
                p10_ms=float(p10),
                p90_ms=float(p90),
                throughput=float(batch / median * 1e3),
                ratio=float(ratio),
                ratio_p10=float(ratio_p10),
                ratio_p90=float(ratio_p90),
                ratio_low=float(low),
                ratio_high=float(high),
                samples=rounds,
                runs_per_sample=repeats[index],
                drift=float(np.median(own[-third:]) / np.median(own[:third])),
                spread=float(p90 / p10),
                precision=precisions[index] if precisions is not None else "fp32",
            )
        )
    return rows
