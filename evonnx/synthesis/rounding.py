"""Rounding a draw: how many classes of a family live, and which.

Numbers first, then members. A number is near to what was drawn and, where it can be, a multiple of the step
that alignment asks for; members that were drawn stay before others, the most probable first. A plain family
is rounded up (what the bound cannot pay is given back later, whole steps at a time); where equal counts tie
numbers together, every number of lines is tried with the members per atom that come nearest to the draw, and
of those near enough the most probable is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds
from evonnx.masks import Mask
from evonnx.synthesis.layout import Family, divisor
from evonnx.synthesis.stacks import Drawn, Stack

Vector = NDArray[np.float64]

_NEAR = 0.1
"""Choices whose distance from the draw is within this of the nearest's are compared by probability."""
_FAR = 1 / 3
"""A choice further than this from the draw is not worth a larger step."""

UNDO, FURTHER, LAST = range(3)
"""When a step is given back: steps above the number drawn first, those that empty a family last."""


@dataclass(frozen=True)
class Step:
    """Classes of one family that can go together."""

    classes: ClassIds
    tier: int
    log_weight: float
    """Log of the sum of their probabilities."""


@dataclass(frozen=True)
class Choice:
    """Which classes of a family live, lines apart."""

    living: ClassIds
    reason: str | None = None
    """Why the step wanted, or equal counts, were not reached."""


@dataclass(frozen=True)
class _Numbers:
    """Members that live per atom of each kind, and which lines do."""

    per_atom: tuple[int, ...]
    lines: Mask


class Fit:
    """One family and one draft."""

    def __init__(self, family: Family, draft: Drawn) -> None:
        self.family = family
        self.draft = draft
        self.stacks = [Stack(kind, draft) for kind in family.kinds]
        self.steps: tuple[int, ...] = ()
        """Multiple that each kind's number keeps; after `choose`."""
        self.chosen: _Numbers | None = None
        """None: left as drawn, and nothing can be given back in steps."""

    def choose(self, *, upwards: bool) -> Choice:
        """Round the draw.

        Args:
            upwards: a plain family takes the next larger multiple if it has enough, else the next smaller.
        """
        if self.family.tangled:
            return self._untangle()
        if sum(stack.drawn for stack in self.stacks) == 0:
            self.chosen = None
            return Choice(np.zeros(0, dtype=np.int64))
        reason = self._choose_plain(upwards) if self.family.plain else self._choose_tied()
        if self.chosen is None:
            members = np.concatenate([stack.kind.members.reshape(-1) for stack in self.stacks])
            members = members[members >= 0]
            return Choice(members[self.draft.alive[members]], reason)
        return Choice(self._living(self.chosen), reason)

    def _living(self, numbers: _Numbers) -> ClassIds:
        return np.concatenate(
            [
                stack.members(number, numbers.lines)
                for stack, number in zip(self.stacks, numbers.per_atom, strict=True)
            ]
        )

    # ------------------------------------------------------------------------------------ plain families

    def _choose_plain(self, upwards: bool) -> str | None:
        (stack,) = self.stacks
        kind, drawn, most = stack.kind, stack.drawn, int(stack.usable[0])
        step, reason = kind.step, None
        if step < kind.wanted:
            reason = f"{kind.available} are too few for steps of {kind.wanted}"
        # At most fourfold: a few survivors are not worth a whole large step.
        if divisor(step, 4 * drawn) < step:
            step, reason = divisor(step, 4 * drawn), f"{drawn} drawn are too few for steps of {kind.wanted}"
        number = -(-drawn // step) * step if upwards else drawn // step * step
        if drawn == kind.available or (number > most and most == kind.available):
            number = kind.available
        elif number > most:
            number = drawn // step * step
        least = max(1, int(stack.forced[0]))
        if number < least:
            step = divisor(step, drawn) if not stack.forced[0] else 1
            number = max(least, drawn // step * step)
            reason = reason or f"{drawn} are left, too few for steps of {kind.wanted}"
        self.steps = (step,)
        self.chosen = _Numbers((number,), np.zeros(0, dtype=np.bool_))
        even = number % kind.wanted == 0 or number == kind.available
        return None if even else reason or f"no more than {most} can live"

    # ----------------------------------------------------------------------------------- equal counts

    def _choose_tied(self) -> str | None:
        """Every number of lines, each with the nearest members per atom."""
        steps = tuple(stack.kind.step for stack in self.stacks)
        while True:
            found = [one for lines in self._line_counts() if (one := self._nearest(lines, steps)) is not None]
            if not found:
                self.chosen = None
                return "some row of an equal-count constraint has nothing left that could live"
            nearest = min(distance for distance, _, _ in found)
            smaller = tuple(divisor(step, step - 1) if step > 1 else 1 for step in steps)
            if nearest <= _FAR or smaller == steps:
                break
            steps = smaller
        near = [one for one in found if one[0] <= nearest + _NEAR]
        _, _, self.chosen = max(near, key=lambda one: one[1])
        self.steps = steps
        wanted = tuple(stack.kind.wanted for stack in self.stacks)
        if all(
            self._even(stack, number, self.chosen.lines, stack.kind.wanted)
            for stack, number in zip(self.stacks, self.chosen.per_atom, strict=True)
        ):
            return None
        atoms = ", ".join(f"{len(s.kind.line)} x {s.kind.members.shape[1]}" for s in self.stacks)
        return f"equal counts in {atoms} leave no multiple of {max(wanted)} near the draw"

    def _even(self, stack: Stack, number: int, lines: Mask, step: int) -> bool:
        total = number * int(np.count_nonzero(stack.surviving(lines)))
        return total % step == 0 or total == stack.kind.available

    def _line_counts(self) -> range:
        return range(1, len(self.family.lines) + 1) if self.family.lines.size else range(1)

    @cached_property
    def _ties(self) -> list[list[int]]:
        """Kinds that keep the same number per atom, by position."""
        labels = [stack.kind.tie for stack in self.stacks]
        return [
            [place for place, one in enumerate(labels) if one == label] for label in dict.fromkeys(labels)
        ]

    def _nearest(self, count: int, steps: tuple[int, ...]) -> tuple[float, float, _Numbers] | None:
        """(distance from the draw, value, numbers) for a number of lines; None where there is none."""
        per_atom = [0] * len(self.stacks)
        distance = 0
        for tie in self._ties:
            stacks = [self.stacks[place] for place in tie]
            atoms = sum(self._atoms(stack, count) for stack in stacks)
            drawn = sum(stack.drawn for stack in stacks)
            unit = math.lcm(*(self._unit(self.stacks[p], count, steps[p]) for p in tie))
            most = min(self._most(stack, count) for stack in stacks)
            below = int(drawn / atoms // unit) * unit
            options = {below, below + unit, most // unit * unit, most}
            options = {n for n in options if all(self._fits(self.stacks[p], count, steps[p], n) for p in tie)}
            if not options:
                return None
            _, best = min((abs(n * atoms - drawn), -n) for n in options)
            best = -best
            distance += abs(best * atoms - drawn)
            for place in tie:
                per_atom[place] = best
        lines = self._best_lines(count, tuple(per_atom))
        if lines is None:
            return None
        numbers = _Numbers(tuple(per_atom), lines)
        return distance / sum(stack.drawn for stack in self.stacks), self._value(numbers), numbers

    def _unit(self, stack: Stack, count: int, step: int) -> int:
        """Members per atom go in multiples of this, so that the kind's total is a multiple of the step."""
        return step // math.gcd(step, self._atoms(stack, count))

    def _fits(self, stack: Stack, count: int, step: int, number: int) -> bool:
        """Whether a kind can have this number per atom."""
        most = self._most(stack, count)
        least = max(int(stack.forced.max(initial=0)), min(stack.drawn, 1))
        whole = number * self._atoms(stack, count) == stack.kind.available
        return least <= number <= most and (whole or number % self._unit(stack, count, step) == 0)

    def _atoms(self, stack: Stack, count: int) -> int:
        """Atoms that survive with `count` lines."""
        if not self.family.lines.size or stack.kind.line[0] < 0:
            return len(stack.kind.line)
        return len(stack.kind.line) // len(self.family.lines) * count

    def _most(self, stack: Stack, count: int) -> int:
        """Members that each of `count` lines' atoms can keep."""
        if not self.family.lines.size or stack.kind.line[0] < 0:
            return int(stack.usable.min())
        return int(stack.most_by_lines[count - 1])

    @cached_property
    def _forced_lines(self) -> Mask:
        forced = np.zeros(len(self.family.lines), dtype=np.bool_)
        if forced.size:
            forced |= self.draft.forced[self.family.lines].any(axis=1)
        for stack in self.stacks:
            forced[stack.kind.line[(stack.forced > 0) & (stack.kind.line >= 0)]] = True
        return forced

    def _line_values(self, per_atom: tuple[int, ...]) -> Vector:
        """Log probability of what would live of each line; -inf where it lacks members."""
        values = np.zeros(len(self.family.lines))
        for stack, number in zip(self.stacks, per_atom, strict=True):
            if stack.kind.line[0] >= 0:
                np.add.at(values, stack.kind.line, stack.sums[:, number])
        return values

    def _best_lines(self, count: int, per_atom: tuple[int, ...]) -> Mask | None:
        lines = np.zeros(len(self.family.lines), dtype=np.bool_)
        if not lines.size:
            return lines
        forced = self._forced_lines
        values = self._line_values(per_atom)
        if int(np.count_nonzero(forced)) > count or (values[forced] == -np.inf).any():
            return None
        values[forced] = np.inf
        taken = np.argsort(-values, kind="stable")[:count]
        if (values[taken] == -np.inf).any():
            return None
        lines[taken] = True
        return lines

    def _value(self, numbers: _Numbers) -> float:
        """Log probability of what lives, above the threshold that would let as many live as were drawn."""
        return sum(
            float(np.sum(stack.sums[stack.surviving(numbers.lines), number] - number * stack.threshold))
            for stack, number in zip(self.stacks, numbers.per_atom, strict=True)
        )

    # ------------------------------------------------------------------------------------ tangled families

    def _untangle(self) -> Choice:
        """Even out rows downwards; where that costs more than half, let all live that may."""
        grids = self.family.tangled
        self.chosen = None
        members = np.unique(np.concatenate([grid.reshape(-1) for grid in grids]))
        drawn = members[self.draft.alive[members]]
        if not drawn.size:
            return Choice(drawn)
        reason = "equal counts of several constraints cross each other"
        for start in (self.draft.alive, self.draft.allowed):
            alive = _level(start, grids, self.draft)
            left = members[alive[members]]
            if alive[members[self.draft.forced[members]]].all() and 2 * left.size >= drawn.size:
                return Choice(left, reason)
        return Choice(drawn, reason)

    # -------------------------------------------------------------------------------------- giving back

    def give_back(self, amount: Vector) -> Iterator[Step]:
        """Steps that lead down from what was chosen, in order, each keeping what rounding is for.

        Args:
            amount: shape (n_classes,): about what the death of each class saves.
        """
        numbers = self.chosen
        if numbers is None:
            return
        if self.family.plain:
            yield from self._give_back_plain(numbers.per_atom[0])
            return
        drawn = sum(stack.drawn for stack in self.stacks)
        living = self._living(numbers)
        while True:
            options = [(one, self._living(one)) for one in self._lower(numbers)]
            if not options:
                break
            tier = UNDO if living.size > drawn else FURTHER
            rated = [
                (self._rate(np.setdiff1d(living, left, assume_unique=True), amount), one, left)
                for one, left in options
            ]
            (_, log_weight, gone), numbers, living = min(rated, key=lambda one: one[0][0])
            yield Step(gone, tier, log_weight)
        if not self._forced_lines.any() and not any(stack.forced.any() for stack in self.stacks):
            yield Step(living, LAST, self._rate(living, amount)[1])

    def _give_back_plain(self, number: int) -> Iterator[Step]:
        (stack,), (step,) = self.stacks, self.steps
        members = stack.sorted[0]
        log_p = self.draft.log_p
        while number > 0:
            fewer = (number - 1) // step * step
            if fewer < stack.forced[0]:
                return
            gone = members[fewer:number]
            tier = LAST if fewer == 0 else UNDO if number > stack.drawn else FURTHER
            yield Step(gone, tier, float(np.logaddexp.reduce(log_p[gone])))
            number = fewer

    def _rate(self, gone: ClassIds, amount: Vector) -> tuple[float, float, ClassIds]:
        """(log of probability per amount, log of probability, what goes)."""
        log_weight = float(np.logaddexp.reduce(self.draft.log_p[gone], initial=-np.inf))
        return log_weight - math.log(max(float(amount[gone].sum()), 1e-300)), log_weight, gone

    def _lower(self, numbers: _Numbers) -> Iterator[_Numbers]:
        """The next smaller numbers: of members of one kind, or of lines."""
        count = int(np.count_nonzero(numbers.lines))
        for tie in self._ties:
            unit = math.lcm(*(self._unit(self.stacks[p], count, self.steps[p]) for p in tie))
            fewer = (numbers.per_atom[tie[0]] - 1) // unit * unit
            if fewer >= max(1, *(int(self.stacks[p].forced.max(initial=0)) for p in tie)):
                per_atom = tuple(fewer if p in tie else n for p, n in enumerate(numbers.per_atom))
                yield _Numbers(per_atom, numbers.lines)
        for fewer in range(count - 1, max(0, int(np.count_nonzero(self._forced_lines)) - 1), -1):
            if all(
                stack.kind.line[0] < 0 or number * self._atoms(stack, fewer) % step == 0
                for stack, number, step in zip(self.stacks, numbers.per_atom, self.steps, strict=True)
            ):
                values = np.where(numbers.lines, self._line_values(numbers.per_atom), -np.inf)
                values[self._forced_lines] = np.inf
                lines = np.zeros_like(numbers.lines)
                lines[np.argsort(-values, kind="stable")[:fewer]] = True
                yield _Numbers(numbers.per_atom, lines)
                break


def _level(start: Mask, grids: tuple[ClassIds, ...], draft: Drawn) -> Mask:
    """Take the last of every row that has more than the shortest, until all rows of every grid agree."""
    alive = start.copy()
    while True:
        before = int(np.count_nonzero(alive))
        for grid in grids:
            lives = alive[grid]
            least = int(lives.sum(axis=1).min())
            rank = np.where(lives, draft.order[grid], -1)
            places = np.argsort(-rank, axis=1, kind="stable")
            alive[np.take_along_axis(grid, places, axis=1)[:, least:]] = False
        if int(np.count_nonzero(alive)) == before:
            return alive
