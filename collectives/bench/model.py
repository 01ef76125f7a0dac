"""What the cost model says of a sweep: before it, and with the links that fit it best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from collectives.bench.config import BenchConfig
from collectives.bench.report import Fitted, Row
from collectives.errors import InvalidArgument, UnsupportedError
from collectives.topology import (
    LOOPBACK,
    Network,
    Prediction,
    Sample,
    algorithms,
    choose,
    fit,
    plan_of,
    usual,
)
from collectives.topology.plans import limit

# Fewer sizes than the figures of a link are fitted by anything.
_FEWEST = 4


def check(config: BenchConfig) -> None:
    """Check the algorithm that is asked for.

    Raises:
        UnsupportedError: it does not do the operation, or not on so many bytes.
    """
    name, most = config.algorithm, max(config.sizes)
    if name is None:
        return
    able = [one for one in algorithms(config.operation) if most <= limit(one)]
    if name not in able:
        raise UnsupportedError(
            f"algorithm {name!r} does no {config.operation} of {most} bytes;"
            f" choose from {', '.join(able)}"
        )


class Model:
    """The model of one run.

    Args:
        config: of the run.
        local: whether all ranks are on one host.
        places: of the view, if they are not.
    """

    def __init__(
        self, config: BenchConfig, local: bool, places: Sequence[Sequence[int]] = ()
    ) -> None:
        self._config = config
        memory = local and config.transport != "tcp"
        self._network = usual(places, local=memory)
        if local and not memory:
            self._network = dataclasses.replace(self._network, levels=(LOOPBACK,))
        self._made: dict[str, Prediction] = {}

    def algorithm(self, size: int) -> str:
        """Return how the operation is carried out on so many bytes."""
        config, network = self._config, self._network
        return config.algorithm or choose(
            config.operation, size, config.ranks, network.places, local=network.local
        )

    def told(self, row: Row) -> Row:
        """Return the row with the algorithm, and the time that links of this kind should need."""
        name = self.algorithm(row.bytes)
        if name not in self._made:
            self._made[name] = self._prediction(name, self._network)
        predicted = self._made[name].seconds(row.bytes) * 1e6
        return dataclasses.replace(row, algorithm=name, predicted_us=predicted)

    def fitted(self, rows: list[Row]) -> tuple[list[Row], Fitted | None]:
        """Return the rows with the times of the network that fits them best, and what it is.

        It is fitted to the medians out of place, or in place where there are no others. Of fewer
        than four sizes there is none.
        """
        config = self._config
        medians = [(row.out_of_place or row.in_place) for row in rows]
        samples = [
            Sample(config.operation, self.algorithm(row.bytes), row.bytes, figure.median_us / 1e6)
            for row, figure in zip(rows, medians, strict=True)
            if figure is not None and figure.median_us > 0
        ]
        if config.ranks == 1 or len({sample.bytes for sample in samples}) < _FEWEST:
            return rows, None
        try:
            network, r2 = fit(samples, config.ranks, self._network)
        except InvalidArgument:  # all took the same time: there is nothing to fit
            return rows, None
        made = {name: self._prediction(name, network) for name in {s.algorithm for s in samples}}
        found = [
            dataclasses.replace(row, fitted_us=made[name].seconds(row.bytes) * 1e6)
            for row in rows
            if (name := self.algorithm(row.bytes))
        ]
        levels = [_finite(dataclasses.asdict(level)) for level in network.levels]
        return found, Fitted(r2, levels, network.overhead, network.reduction)

    def _prediction(self, name: str, network: Network) -> Prediction:
        config = self._config
        return Prediction(plan_of(config.operation, name, config.ranks, network.places), network)


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: None if figure == math.inf else figure for name, figure in figures.items()}
