"""Which classes are rounded together: found once for a network, the same for every sample.

A *family* is a set of classes whose numbers hang together: members of equal-count constraints that share
classes or lines, or, outside of any, the classes that stand in the same weights' outputs equally often. Its
classes lie in *atoms*, sets that are alike in every constraint (one group of a convolution's inputs, one head
of an attention's values); atoms of one *kind* keep equally many, which satisfies every constraint at once.

    convolution with 32 groups of 4 -> 4     32 lines; kind "inputs": 32 atoms of 4, kind "outputs": the same
    channels of a plain layer                no line; one kind with one atom
    grouped convolution, shuffle, another    no line; one kind, an atom per (group before, group behind)

Constraints that no such numbers satisfy for all rows make a family *tangled*: rows are then evened out one by
one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds, Coupling, EqualCount
from evonnx.dependency.ids import UnionFind
from evonnx.masks import Mask

NO_CLASSES: ClassIds = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Kind:
    """Atoms that keep equally many members each."""

    members: ClassIds
    """Shape (A, M): classes of each atom; -1 beyond the end of shorter ones."""
    line: NDArray[np.int64]
    """Shape (A,): position of the line that the atom goes with among the family's; -1: none."""
    wanted: int
    """The number of living classes is to be a multiple of this, so that weights put out aligned counts."""
    available: int
    """Classes of this kind that the parent has."""
    tie: int = 0
    """Kinds with the same number keep the same number per atom (queries and values in one tensor)."""

    @property
    def step(self) -> int:
        """`wanted`; for fewer than that, the largest divisor of it that fits at least twice."""
        return self.wanted if self.wanted <= self.available else divisor(self.wanted, self.available // 2)


@dataclass(frozen=True)
class Family:
    """Classes whose numbers are chosen together."""

    kinds: tuple[Kind, ...]
    lines: ClassIds
    """Shape (L, N): classes of each line (group, head) that can go with all its members; empty: none can."""
    tangled: tuple[ClassIds, ...] = ()
    """Instead of kinds: grids of shape (R, M) whose rows are to keep equally many."""

    @property
    def plain(self) -> bool:
        """Any number of its classes may live, none included."""
        return len(self.kinds) == 1 and len(self.kinds[0].line) == 1 and not self.lines.size


@dataclass(frozen=True)
class Layout:
    """How a network's samples are to be rounded."""

    align: int
    families: tuple[Family, ...]
    lines: tuple[tuple[ClassIds, ClassIds], ...] = ()
    """Classes of lines, shape (L,), and their members, shape (L, N): a line lives while one of these does."""

    def living_lines(self, alive: Mask) -> ClassIds:
        """Lines that live when these classes do, `alive` of shape (n_classes,)."""
        return np.concatenate(
            [NO_CLASSES, *(lines[alive[members].any(axis=1)] for lines, members in self.lines)]
        )


def divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is not larger than `most`, 1 at least."""
    return max((d for d in range(1, min(number, most) + 1) if number % d == 0), default=1)


def find_layout(coupling: Coupling, available: Mask, align: int) -> Layout:
    """Find the families of a network.

    Args:
        coupling: its coupling.
        available: shape (n_classes,): classes that the parent has.
        align: wanted multiple of channels along weights' output axes.
    """
    standing, multiples = _standing(coupling, align)
    grids = _grids(coupling)
    sets = UnionFind()
    everything = sets.grow(coupling.n_classes)
    for grid in grids:
        ids = np.concatenate([grid.rows.reshape(-1), *grid.lines])
        sets.unite(ids[:-1], ids[1:])
    root = sets.find(everything)
    by_root: dict[int, list[Grid]] = defaultdict(list)
    for grid in grids:
        by_root[int(root[grid.rows.flat[0]])].append(grid)
    pinned = coupling.pinned()
    families: list[Family] = []
    in_grid = np.zeros(coupling.n_classes, dtype=np.bool_)
    for together in by_root.values():
        for grid in together:
            in_grid[grid.rows] = True
            for line in grid.lines:
                in_grid[line] = True
        families.append(_family(together, pinned, available, standing, multiples))
    free = np.flatnonzero(available & ~in_grid)
    free = free[np.argsort(standing[free], kind="stable")]
    for part in np.split(free, np.flatnonzero(np.diff(standing[free])) + 1):
        if part.size:
            wanted = multiples[int(standing[part[0]])]
            kind = Kind(part[None, :], np.full(1, -1), wanted, len(part))
            families.append(Family((kind,), NO_CLASSES))
    return Layout(align, tuple(families), tuple(_lines_and_members(coupling)))


def _standing(coupling: Coupling, align: int) -> tuple[NDArray[np.int64], list[int]]:
    """Where each class stands among the weights' outputs, as a number, and the multiple wanted there.

    Classes that stand k times on an axis fill it k at a time, so fewer of them make it even. A class that no
    weight puts out has number 0 and multiple 1.
    """
    numbers = np.zeros(coupling.n_classes, dtype=np.int64)
    multiples = [1]
    for classes in coupling.weights.values():
        ids, times = np.unique(classes.output, return_counts=True)
        before = np.stack([numbers[ids], times], axis=1)
        kinds, inverse = np.unique(before, axis=0, return_inverse=True)
        numbers[ids] = len(multiples) + inverse.reshape(-1)
        multiples += [
            math.lcm(multiples[old], align // math.gcd(align, times)) for old, times in kinds.tolist()
        ]
    return numbers, multiples


def _lines_and_members(coupling: Coupling) -> Iterator[tuple[ClassIds, ClassIds]]:
    for constraint in coupling.equal_counts:
        for axis, line in enumerate(constraint.lines):
            if line is not None:
                yield line, np.moveaxis(constraint.classes, axis, 0).reshape(line.size, -1)


@dataclass(frozen=True)
class Grid:
    """One equal-count constraint."""

    rows: ClassIds
    """Shape (R, M)."""
    lines: tuple[ClassIds, ...]
    """Arrays of line classes, one per outer axis that has any."""
    row_lines: tuple[ClassIds, ...]
    """For each of `lines`, the line of every row, shape (R,)."""


def _grid_of(constraint: EqualCount) -> Grid:
    """An equal-count constraint with its outer axes made one."""
    outer = constraint.classes.shape[:-1]
    lines, row_lines = [], []
    for axis, line in enumerate(constraint.lines):
        if line is not None:
            place = [1] * len(outer)
            place[axis] = line.size
            lines.append(line)
            row_lines.append(np.broadcast_to(line.reshape(place), outer).reshape(-1))
    rows = constraint.classes.reshape(-1, constraint.classes.shape[-1])
    return Grid(rows, tuple(lines), tuple(row_lines))


def _grids(coupling: Coupling) -> list[Grid]:
    """Constraints that say something, each once."""
    found: dict[bytes, Grid] = {}
    for grid in map(_grid_of, coupling.equal_counts):
        if grid.rows.size and len(grid.rows) > 1:
            arrays = (np.array(grid.rows.shape), grid.rows, *grid.row_lines)
            found.setdefault(b"/".join(array.tobytes() for array in arrays), grid)
    return list(found.values())


Atom = tuple[tuple[int, int], ...]
"""The (grid, row) places of its members, each as often as a member stands there."""


def _family(
    grids: Sequence[Grid],
    pinned: Mask,
    available: Mask,
    standing: NDArray[np.int64],
    multiples: Sequence[int],
) -> Family:
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, grid in enumerate(grids):
        for row, members in enumerate(grid.rows.tolist()):
            for one in members:
                places[one].append((number, row))
    atoms: dict[Atom, list[int]] = defaultdict(list)
    for one in sorted(places):
        atoms[tuple(places[one])].append(one)
    by_kind: dict[tuple[tuple[int, int], ...], list[Atom]] = defaultdict(list)
    for atom in atoms:
        by_kind[tuple(sorted((grid, times) for (grid, _), times in Counter(atom).items()))].append(atom)
    ties = _ties(list(by_kind.values()), grids)
    if ties is None:
        return Family((), NO_CLASSES, tuple(grid.rows for grid in grids))
    lines, line_of = _lines(grids, pinned, by_kind.values())
    kinds = []
    for alike, tie in zip(by_kind.values(), ties, strict=True):
        length = max(len(atoms[atom]) for atom in alike)
        members = np.array([atoms[atom] + [-1] * (length - len(atoms[atom])) for atom in alike])
        ids = members[members >= 0]
        kinds.append(
            Kind(
                members,
                np.array([line_of.get(atom, -1) for atom in alike]),
                math.lcm(*(multiples[number] for number in np.unique(standing[ids]).tolist())),
                int(np.count_nonzero(available[ids])),
                tie,
            )
        )
    return Family(tuple(kinds), lines)


def _ties(kinds: Sequence[Sequence[Atom]], grids: Sequence[Grid]) -> list[int] | None:
    """Which kinds must keep the same number per atom, as a label per kind, so that rows come out equal.

    Rows of a grid that hold equally many atoms of every kind need nothing more. Others (some rows hold
    queries, some values) come out equal where kinds agree, if rows hold equally many atoms in all; None where
    they don't.
    """
    labels = list(range(len(kinds)))
    uneven = [grid for grid in range(len(grids)) if not all(_even(alike, grid, grids) for alike in kinds)]
    for grid in uneven:
        here = {label for alike, label in zip(kinds, labels, strict=True) if _touches(alike, grid)}
        labels = [min(here) if label in here else label for label in labels]
    for grid in uneven:
        if not _even([atom for alike in kinds for atom in alike], grid, grids):
            return None
    return labels


def _touches(atoms: Iterable[Atom], grid: int) -> bool:
    return any(place[0] == grid for atom in atoms for place in atom)


def _even(atoms: Iterable[Atom], grid: int, grids: Sequence[Grid]) -> bool:
    """Whether every row of a grid holds equally many of these atoms, or none does."""
    per_row = Counter(row for atom in atoms for here, row in atom if here == grid)
    return len({per_row[row] for row in range(len(grids[grid].rows))}) == 1


def _lines(
    grids: Sequence[Grid], pinned: Mask, kinds: Iterable[Sequence[Atom]]
) -> tuple[ClassIds, dict[Atom, int]]:
    """Lines that can go, and the one that each atom goes with.

    Lines that an atom lies in together go together (two grouped convolutions in a row have lines each). Where
    that would make one of all, because rows have lines along several axes, those along one axis are used.
    """
    kinds = list(kinds)
    arrays = {line.tobytes(): line for grid in grids for line in grid.lines if not pinned[line].all()}
    joined = _connected(list(arrays.values()))
    everything = [np.unique(np.concatenate(joined))] if len(joined) > 1 else []
    for allowed in (*everything, *sorted(joined, key=len, reverse=True)):
        found = _bundles(grids, set(allowed.tolist()), kinds)
        if found is not None:
            return found
    return NO_CLASSES, {}


def _bundles(
    grids: Sequence[Grid], allowed: set[int], kinds: Sequence[Sequence[Atom]]
) -> tuple[ClassIds, dict[Atom, int]] | None:
    """Lines among those allowed, put together where an atom lies in several; None where they could not go one
    by one and leave every kind with equally many atoms per line."""
    lies_in: dict[Atom, list[int]] = {}
    for atom in (atom for alike in kinds for atom in alike):
        lines = [
            [int(row[place]) for row in grids[grid].row_lines if int(row[0]) in allowed]
            for grid, place in atom
        ]
        if any(lines) and not all(lines):
            return None
        lies_in[atom] = [one for here in lines for one in here]
    bundle: dict[int, set[int]] = {one: {one} for one in allowed}
    for together in lies_in.values():
        union = set().union(*(bundle[one] for one in together))
        for one in union:
            bundle[one] = union
    distinct = sorted({tuple(sorted(one)) for one in bundle.values()})
    position = {one: place for place, bundled in enumerate(distinct) for one in bundled}
    places = {atom: position[lines[0]] if lines else -1 for atom, lines in lies_in.items()}
    counts = [Counter(places[atom] for atom in alike) for alike in kinds]
    even = all(
        set(count) == {-1} or (len(count) == len(distinct) and len(set(count.values())) == 1)
        for count in counts
    )
    if len(distinct) < 2 or not even or all(set(count) == {-1} for count in counts):
        return None
    longest = max(map(len, distinct))
    return np.array([one + one[:1] * (longest - len(one)) for one in distinct]), places


def _connected(arrays: Sequence[ClassIds]) -> list[ClassIds]:
    """Unions of arrays that share members."""
    unions: list[ClassIds] = []
    for array in arrays:
        shared = [one for one in unions if np.intersect1d(one, array).size]
        unions = [one for one in unions if not any(one is other for other in shared)]
        unions.append(np.unique(np.concatenate([array, *shared])))
    return unions
