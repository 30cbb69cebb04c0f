"""The Pareto front: models of which no other is better in both, score and cost."""

from __future__ import annotations

from collections.abc import Sequence


def front(costs: Sequence[float], scores: Sequence[float], higher_is_better: bool = True) -> tuple[int, ...]:
    """Positions on the front, the cheapest first.

    A model is on it if no other costs no more and scores no worse, and differs in one of them. Of models
    equal in both, all are.

    Args:
        costs: what each model costs; less is better.
        scores: as many.
        higher_is_better: of scores.
    """
    sign = 1 if higher_is_better else -1
    order = sorted(range(len(costs)), key=lambda one: (costs[one], -sign * scores[one]))
    found: list[int] = []
    for one in order:
        if not found:
            found.append(one)
            continue
        last = found[-1]
        alike = costs[one] == costs[last] and scores[one] == scores[last]
        if alike or sign * scores[one] > sign * scores[last]:
            found.append(one)
    return tuple(found)
