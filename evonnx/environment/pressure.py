"""Solving both levels of equation 3 for a genome: survival of every cluster, and F_s for every layer.

Where one factor is for the whole network, what is scarce goes to what is most probable per amount. Strengths
that compare layers tell of it by themselves (`Expression.priced`); for others, and where prices have changed
since the genome was read, the factor is F / c for what costs c times the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evonnx.clusters import LayerClusters
from evonnx.environment.solve import (
    Digest,
    Spectrum,
    expected,
    fill,
    merged,
    solve_factor,
    solve_monotone,
)
from evonnx.genome import Block, Floats, Genome, Levels, over_taps

_TOLERANCE = 5e-4
"""Accepted relative error of an expectation that is solved by iteration."""
_ESTIMATES = 5
"""Attempts with the cheap estimate before the exact expectation is iterated."""


@dataclass(frozen=True)
class Pressure:
    """What the environment does to a genome."""

    cluster_survival: Floats
    """min(1, F_c P(cluster)), shape (n_clusters,); 1 for pinned clusters, 0 for dead ones."""
    synapse_log_factor: Mapping[str, float]
    """log F_s by layer; inf where every synapse of a living cluster lives."""
    expected_share: float
    """Of the parent's amount, over all draws."""


def survival(genome: Genome, pressure: Pressure, block: Block) -> Floats:
    """min(1, F_s P(synapse given cluster)) of a block: shape (R, I, K); of no meaning where dead."""
    log_factor = pressure.synapse_log_factor[block.name]
    if log_factor == math.inf:
        return np.ones(block.live.shape, dtype=np.float32)
    return genome.synapse_survival(block, log_factor)


def solve_pressure(
    genome: Genome, prices: Mapping[str, float], share: float, levels: Levels, cluster_share: float
) -> Pressure:
    """Find F_c and F_s so that the expected amount is `share` of the parent's.

    With both levels the cluster level keeps k^s of the amount that hangs on clusters which can die, and the
    synapse level takes the rest of the way to k exactly. A share that pinned clusters make unreachable is met
    as nearly as can be; `expected_share` tells.

    Args:
        genome: what the parent hands down.
        prices: amount per synapse of each layer.
        share: k, in (0, 1].
        levels: which factors act.
        cluster_share: s.
    """
    total = sum(prices[name] * count for name, count in genome.live.items())
    kept = {"both": share**cluster_share, "clusters": share, "synapses": 1.0}[levels]
    if kept == 1:
        clusters = _certain(genome)
    elif genome.parent.clusters.granularity == "channel":
        clusters = _solve_channels(genome, prices, kept, levels)
    else:
        clusters = _solve_own_clusters(genome, prices, kept)
    left = {name: prices[name] * _expected_live(genome, clusters, name) for name in genome.live}
    if levels == "clusters":
        return Pressure(clusters, dict.fromkeys(left, math.inf), sum(left.values()) / total)
    factors, amount = _solve_synapses(genome, prices, clusters, left, share)
    return Pressure(clusters, factors, amount / total)


def with_fewer_synapses(
    genome: Genome, pressure: Pressure, prices: Mapping[str, float], share: float
) -> Pressure:
    """The same survival of clusters, with F_s solved so that `share` of the parent's amount is expected."""
    clusters = pressure.cluster_survival
    total = sum(prices[name] * count for name, count in genome.live.items())
    left = {name: prices[name] * _expected_live(genome, clusters, name) for name in genome.live}
    factors, amount = _solve_synapses(genome, prices, clusters, left, share)
    return Pressure(clusters, factors, amount / total)


def expected_synapses(genome: Genome, pressure: Pressure) -> dict[str, float]:
    """Live synapses expected of each layer, over all draws."""
    clusters = pressure.cluster_survival

    def of_block(block: Block) -> float:
        chances = survival(genome, pressure, block)
        chances *= genome.parent.clusters.layers[block.name].spread(clusters, block.rows)
        return float(np.sum(chances, where=block.live, dtype=np.float64))

    return {
        name: _expected_live(genome, clusters, name)
        if pressure.synapse_log_factor[name] == math.inf
        else sum(genome.parent.map(name, of_block))
        for name in genome.live
    }


def _certain(genome: Genome) -> Floats:
    return (genome.cluster_live > 0).astype(np.float32)


def _log_costs(genome: Genome, prices: Mapping[str, float]) -> dict[str, float]:
    """Log of each layer's price over the mean of live synapses, as far as x does not tell of it; 0 where
    every layer has its own factor."""
    if genome.encoding.scope == "layer":
        return dict.fromkeys(prices, 0.0)
    told = genome.parent.prices
    if genome.priced and told is not None:
        # Rounded, so that prices that differ by one factor throughout come out equal.
        prices = {
            name: float(np.float32(price / told[name])) if told[name] > 0 else 0.0
            for name, price in prices.items()
        }
    mean = sum(prices[name] * count for name, count in genome.live.items()) / sum(genome.live.values())
    return {name: math.log(price / mean) if price > 0 else 0.0 for name, price in prices.items()}


def _log_cost_of_channels(genome: Genome, prices: Mapping[str, float]) -> Floats | float:
    """The same of each class's synapses taken together, shape (n_clusters,); 0 where all cost the same."""
    costs = _log_costs(genome, prices)
    if len(set(costs.values())) == 1:
        return 0.0
    amounts = np.zeros(genome.cluster_live.shape)
    for name, cost in costs.items():
        for role in genome.parent.census.roles[name]:
            amounts[role.clusters] += role.sums * math.exp(cost)
    live = np.asarray(genome.cluster_live, np.float64)
    shares = np.divide(amounts, live, out=np.ones_like(amounts), where=amounts > 0)
    return np.asarray(np.log(shares), np.float32)


def _from_factors(genome: Genome, log_factor: float | Floats) -> Floats:
    """Survival of every cluster under log F_c."""
    log_p = genome.cluster_log_probability()
    alive = np.exp(np.minimum(log_p + log_factor, 0)).astype(np.float32)
    alive[genome.cluster_live == 0] = 0
    pinned = genome.parent.clusters.pinned
    if pinned is not None:
        alive[pinned] = 1
    return np.asarray(alive)


def _own(layer: LayerClusters) -> slice:
    """The clusters of a layer whose clusters are its own."""
    if layer.kernels is not None:
        return slice(layer.kernels, layer.kernels + layer.outputs * layer.inputs_per_group)
    assert layer.rows is not None
    return slice(int(layer.rows[0]), int(layer.rows[-1]) + 1)


def _solve_own_clusters(genome: Genome, prices: Mapping[str, float], kept: float) -> Floats:
    selectivity = genome.encoding.cluster_selectivity
    log_factors = np.zeros_like(genome.cluster_x)
    owned = {name: _own(layer) for name, layer in genome.parent.clusters.layers.items()}
    costs = _log_costs(genome, prices)
    scopes = [[name] for name in owned] if genome.encoding.scope == "layer" else [list(owned)]
    for names in scopes:
        spectra: dict[float, Spectrum] = {}
        for cost, alike in _by_cost(names, costs).items():
            spectra[cost] = Spectrum(sum(owned[name].stop - owned[name].start for name in alike), selectivity)
            for name in alike:
                amounts = genome.cluster_live[owned[name]] * np.float32(prices[name])
                spectra[cost].add(spectra[cost].digest(genome.cluster_x[owned[name]], amounts))
        log_p, amount = merged(spectra)
        factor = solve_factor(log_p, amount, kept * float(amount.sum()))
        for name in names:
            log_factors[owned[name]] = factor - costs[name]
    return _from_factors(genome, log_factors)


def _by_cost(names: Sequence[str], costs: Mapping[str, float]) -> dict[float, list[str]]:
    alike: dict[float, list[str]] = {}
    for name in names:
        alike.setdefault(costs[name], []).append(name)
    return alike


def _solve_channels(genome: Genome, prices: Mapping[str, float], kept: float, levels: Levels) -> Floats:
    """One F for all classes. A synapse needs both of its classes, so the expectation is not linear in
    them."""
    costs = _log_cost_of_channels(genome, prices)

    def under(log_factor: float) -> Floats:
        return _from_factors(genome, log_factor - costs)

    def exact(clusters: Floats) -> float:
        return sum(prices[name] * _expected_live(genome, clusters, name) for name in genome.live)

    def estimate(clusters: Floats) -> float:
        return sum(prices[name] * _spread_evenly(genome, clusters, name) for name in genome.live)

    pinned = genome.parent.clusters.pinned
    free = genome.cluster_live > 0 if pinned is None else (genome.cluster_live > 0) & ~pinned
    if not free.any():
        return _certain(genome)
    total = sum(prices[name] * count for name, count in genome.live.items())
    fixed = exact(_from_factors(genome, -np.inf)) if pinned is not None and pinned.any() else 0.0
    target = fixed + kept * (total - fixed) if levels == "both" else kept * total
    if target <= fixed:
        return _from_factors(genome, -np.inf)
    log_p = (genome.cluster_log_probability() - costs)[free].astype(np.float64)
    # A synapse survives with at most F times the largest P, so this F is too small.
    low, high = math.log((target - fixed) / total) - float(log_p.max()), float(-log_p.min())
    aim = target
    for _ in range(_ESTIMATES):
        log_factor = solve_monotone(lambda f: estimate(under(f)), low, high, aim)
        clusters = under(log_factor)
        amount = exact(clusters)
        if abs(amount / target - 1) < _TOLERANCE:
            return clusters
        aim *= target / amount
    log_factor = solve_monotone(lambda f: exact(under(f)), low, high, target)
    return under(log_factor)


def _expected_live(genome: Genome, clusters: Floats, name: str) -> float:
    """Expected synapses of a layer whose clusters all live."""
    layer = genome.parent.clusters.layers[name]
    if layer.columns is None:
        own = _own(layer)
        return float(np.dot(genome.cluster_live[own].astype(np.float64), clusters[own]))
    weight = genome.parent.network.weights[name]
    dense = genome.live[name] == weight.outputs * weight.inputs_per_group * weight.taps
    product = _spread_evenly(genome, clusters, name)
    if product == 0 or (dense and layer.groups == 1 and not layer.overlap):
        return product

    def of_block(block: Block) -> float:
        slices = over_taps(block.live)
        if layer.overlap or layer.groups > 1:
            return float(np.sum(slices[:, :, None] * layer.spread(clusters, block.rows), dtype=np.float64))
        assert layer.rows is not None
        assert layer.columns is not None
        return float(clusters[layer.rows[block.rows]] @ (slices @ clusters[layer.columns[0]]))

    return sum(genome.parent.map(name, of_block))


def _spread_evenly(genome: Genome, clusters: Floats, name: str) -> float:
    """`_expected_live` as if a layer's live synapses were spread evenly over classes."""
    rows, columns = genome.parent.census.roles[name]
    both = (rows.sums @ clusters[rows.clusters]) * (columns.sums @ clusters[columns.clusters])
    return float(both) / max(1, genome.live[name])


def _solve_synapses(
    genome: Genome, prices: Mapping[str, float], clusters: Floats, left: Mapping[str, float], share: float
) -> tuple[dict[str, float], float]:
    """log F_s by layer, and the expected amount. `left`: expected amount per layer after the cluster
    level."""
    sizes = {name: prices[name] * count for name, count in genome.live.items()}
    target = min(share * sum(sizes.values()), sum(left.values()))
    if genome.encoding.scope == "network":
        return _solve_together(genome, prices, clusters, list(sizes), target)
    # Where clusters that span layers leave one less than its share, the others make up for it.
    common = fill(np.array([left[name] for name in sizes]), np.array(list(sizes.values())), target)
    solved = {
        name: _solve_together(genome, prices, clusters, [name], min(common * size, left[name]))
        for name, size in sizes.items()
    }
    factors = {name: factor for found, _ in solved.values() for name, factor in found.items()}
    return factors, sum(amount for _, amount in solved.values())


def _solve_together(
    genome: Genome, prices: Mapping[str, float], clusters: Floats, names: list[str], target: float
) -> tuple[dict[str, float], float]:
    """log F_s of some layers, solved together, and the amount that it is expected to keep there."""
    layers, weights = genome.parent.clusters.layers, genome.parent.network.weights
    costs = _log_costs(genome, prices)
    spectra: dict[float, Spectrum] = {}
    for cost, alike in _by_cost(names, costs).items():
        entries = sum(
            weights[name].outputs * weights[name].inputs_per_group * weights[name].taps for name in alike
        )
        spectrum = spectra[cost] = Spectrum(entries, genome.encoding.synapse_selectivity)

        def of_block(block: Block, spectrum: Spectrum = spectrum) -> Digest:
            weighted = layers[block.name].spread(clusters, block.rows) * np.float32(prices[block.name])
            return spectrum.digest(genome.traits[block.name](block), block.live * weighted)

        for name in alike:
            for digest in genome.parent.map(name, of_block):
                spectrum.add(digest)
    log_p, amounts = merged(spectra)
    factor = solve_factor(log_p, amounts, target)
    return {name: factor - costs[name] for name in names}, expected(factor, log_p, amounts)
