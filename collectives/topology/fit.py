"""From measured times to a network: the figures with which the model comes nearest to them.

Called by ``collectives bench`` on its own sweep.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from collectives.errors import InvalidArgument
from collectives.topology.model import Graph, Prediction
from collectives.topology.network import Network
from collectives.topology.plans import Plan, plan_of

Floats = NDArray[np.float64]

_ROUNDS = 40
_STEP = 1e-4  # of a logarithm, to see how the model changes
_ENOUGH = 1e-6  # improvement of the squares below which it is as good as it gets


@dataclasses.dataclass(frozen=True)
class Sample:
    """A measured time.

    Attributes:
        kind: of the operation.
        algorithm: that carried it out.
        bytes: of the buffer, the larger of a rank's input and output.
        seconds: that it took.
    """

    kind: str
    algorithm: str
    bytes: int
    seconds: float


class Model:
    """The model of the samples' plans; what a network does not change is worked out once."""

    def __init__(self, samples: Sequence[Sample], size: int, network: Network) -> None:
        self._samples = samples
        self._plans: dict[tuple[str, str], tuple[Plan, Graph]] = {}
        for kind, algorithm in {(sample.kind, sample.algorithm) for sample in samples}:
            plan = plan_of(kind, algorithm, size, network.places)
            self._plans[kind, algorithm] = plan, Graph(plan)

    def seconds(self, network: Network) -> Floats:
        """Return what the model says of each sample."""
        made = {key: Prediction(plan, network, graph) for key, (plan, graph) in self._plans.items()}
        return np.array([made[s.kind, s.algorithm].seconds(s.bytes) for s in self._samples])


def fit(samples: Sequence[Sample], size: int, start: Network) -> tuple[Network, float]:
    """Return the network that explains the samples best, and R² of the model with it.

    Least squares of the logarithms, so that a microsecond of ten counts as much as a second of
    ten million, by the method of Levenberg and Marquardt (D. Marquardt, An algorithm for
    least-squares estimation of nonlinear parameters, 1963). Figures that the samples say nothing
    about stay as they are in `start`.

    Args:
        samples: two or more, of different times.
        size: how many ranks took part.
        start: where to begin, with the places of the ranks.

    Returns:
        The network; and 1 - (squares of what the model gets wrong) / (squares of the differences
        from the mean), of the logarithms of the times: 1 is a perfect fit, and at 0 or below the
        mean would have been as good.

    Raises:
        InvalidArgument: the samples say nothing: too few, all alike, or a time not above 0.
    """
    if any(not sample.seconds > 0 for sample in samples):
        raise InvalidArgument("a sample took no time; seconds have to be above 0")
    wanted = np.log([sample.seconds for sample in samples])
    spread = float(((wanted - wanted.mean()) ** 2).sum()) if samples else 0.0
    if spread == 0:
        raise InvalidArgument("to fit a network takes two samples with different times, or more")
    model = Model(samples, size, start)

    def wrong(at: Floats) -> Floats:
        return np.log(np.maximum(model.seconds(_network(at, start)), 1e-12)) - wanted

    at = _figures(start)
    residual = wrong(at)
    damping = 1e-2
    for _ in range(_ROUNDS):
        slope = np.column_stack([(wrong(at + step) - residual) / _STEP for step in _steps(at)])
        normal, down = slope.T @ slope, slope.T @ residual
        better = False
        while not better and damping < 1e8:
            # What changes nothing has a row of zeros, and stays.
            scale = np.maximum(normal.diagonal(), 1e-12)
            move = np.clip(np.linalg.solve(normal + np.diag(damping * scale), -down), -2, 2)
            tried = wrong(at + move)
            better = bool((tried**2).sum() < (residual**2).sum())
            damping *= 0.3 if better else 4.0
        if not better:
            break
        gain = 1 - float((tried**2).sum() / (residual**2).sum())
        at, residual = at + move, tried
        if gain < _ENOUGH:
            break
    return _network(at, start), 1 - float((residual**2).sum()) / spread


def _steps(at: Floats) -> Floats:
    return np.eye(len(at)) * _STEP


_FIGURES = ("latency", "bandwidth", "uplink", "fabric")
_LEAST = 1e-9  # seconds that are 0 still have a logarithm


def _figures(network: Network) -> Floats:
    """Return the logarithms of what is to be found; what is unlimited stays so."""
    found = [network.overhead, network.reduction]
    found += [getattr(level, name) for level in network.levels for name in _FIGURES]
    return np.log([max(figure, _LEAST) for figure in found if figure < math.inf])


def _network(at: Floats, start: Network) -> Network:
    """Return the network of these logarithms."""
    left = iter(np.exp(at).tolist())
    overhead, reduction = next(left), next(left)
    levels = []
    for level in start.levels:
        finite = [name for name in _FIGURES if getattr(level, name) < math.inf]
        levels.append(dataclasses.replace(level, **{name: next(left) for name in finite}))
    return dataclasses.replace(start, levels=tuple(levels), overhead=overhead, reduction=reduction)
