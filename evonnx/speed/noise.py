"""Whether a measurement was disturbed: figures from readings before and after, and what they mean in words.

Thresholds only decide what is worth a sentence; every figure is in the record.
"""

from __future__ import annotations

from collections.abc import Sequence

from evonnx.speed.readings import Reading
from evonnx.speed.records import Conditions, Latency

OTHERS_SHARE = 0.05
"""Share of the cores that other processes may use without a word."""
STOLEN_SHARE = 0.01
"""Share of the cores' time that a hypervisor may take without a word."""
SWITCHES_PER_SECOND = 50.0
"""How often a process may be made to wait without a word."""
DRIFT = 1.10
"""How much slower or faster the last third of samples may be than the first without a word."""
SPREAD = 1.5
"""How far apart the 10th and the 90th percentile may be without a word."""
CLOCK_CHANGE = 0.05
"""Relative change of clock rates that is let pass without a word."""


def conditions(readings: Sequence[tuple[Reading, Reading]]) -> Conditions:
    """What happened on the cores while models were timed.

    Args:
        readings: before and after each stretch of timing, at least one stretch, in order.
    """
    seconds = sum(after.seconds - before.seconds for before, after in readings)
    own = sum(after.own_seconds - before.own_seconds for before, after in readings)
    busy = _grown(readings, "busy_seconds")
    stolen = _grown(readings, "stolen_seconds")
    switches = _grown(readings, "switches")
    throttled = _grown(readings, "throttled")
    cores = readings[0][0].cores
    known = seconds > 0
    return Conditions(
        seconds=seconds,
        cores=cores,
        # Kernel and process clocks tick apart, so a small difference may come out negative.
        other_cores=max(0.0, busy - own) / seconds if known and busy is not None else None,
        stolen_share=stolen / (seconds * cores) if known and stolen is not None else None,
        switches=None if switches is None else int(switches),
        throttled=None if throttled is None else int(throttled),
        mhz_before=readings[0][0].mhz,
        mhz_after=readings[-1][1].mhz,
    )


def _grown(readings: Sequence[tuple[Reading, Reading]], name: str) -> float | None:
    """How much a counter grew over all stretches; None where it is not known."""
    pairs = [(getattr(before, name), getattr(after, name)) for before, after in readings]
    if any(value is None for pair in pairs for value in pair):
        return None
    return float(sum(after - before for before, after in pairs))


def noise_notes(found: Conditions, latencies: Sequence[Latency]) -> list[str]:
    """A sentence for each disturbance that is worth one."""
    notes = []
    if found.other_cores is not None and found.other_cores > OTHERS_SHARE * found.cores:
        cores = f"{found.cores} core{'' if found.cores == 1 else 's'}"
        notes.append(
            f"Other processes used {found.other_cores:.1f} of {cores} while this was measured: ratios hold, "
            "since the models took turns; milliseconds may not."
        )
    if found.stolen_share is not None and found.stolen_share > STOLEN_SHARE:
        notes.append(
            f"The hypervisor gave {found.stolen_share:.0%} of the cores' time to other machines: ratios "
            "hold, milliseconds may not."
        )
    if found.switches is not None and found.switches > SWITCHES_PER_SECOND * found.seconds:
        notes.append(
            f"This process was made to wait {found.switches} times in {found.seconds:.1f} seconds; samples "
            "in which that happened are too long."
        )
    if found.throttled:
        notes.append(
            f"The processor was slowed down {found.throttled} times because it was hot: milliseconds are of "
            "a hot machine."
        )
    before, after = found.mhz_before, found.mhz_after
    if before and after and abs(after / before - 1) > CLOCK_CHANGE:
        notes.append(f"Clock rates went from {before:,.0f} to {after:,.0f} MHz while this was measured.")
    return notes + _sample_notes(latencies)


def _sample_notes(latencies: Sequence[Latency]) -> list[str]:
    """What the samples themselves tell: the worst case in full, the others as a number."""
    notes = []
    drifting = [one for one in latencies if max(one.drift, 1 / one.drift) > DRIFT]
    if drifting:
        worst = max(drifting, key=lambda one: max(one.drift, 1 / one.drift))
        notes.append(
            f"Times drifted: the last third of {_named(worst)} took {worst.drift:.2f}x the first"
            f"{_others(len(drifting) - 1)}. Ratios are made within rounds, which a drift does not bias."
        )
    spread = [one for one in latencies if one.spread > SPREAD]
    if spread:
        worst = max(spread, key=lambda one: one.spread)
        notes.append(
            f"Samples are far apart: the 90th percentile of {_named(worst)} is {worst.spread:.2f}x the 10th"
            f"{_others(len(spread) - 1)}. The intervals allow for it; more --rounds narrow them."
        )
    return notes


def _named(latency: Latency) -> str:
    copy = "" if latency.precision == "fp32" else f" in {latency.precision}"
    return f"{latency.model}{copy} at batch {latency.batch}"


def _others(number: int) -> str:
    return "" if not number else f", and {number} other{'' if number == 1 else 's'} likewise"
