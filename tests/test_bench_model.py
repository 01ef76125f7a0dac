"""The bench beside the cost model: what it says of a sweep, and how well it fits. No test looks at
how well it fits what was measured here: the machine may be busy."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import strip
from collectives.bench import table
from collectives.bench.config import BenchConfig
from collectives.bench.libraries import Ours
from collectives.bench.model import Model
from collectives.bench.report import Figure, Row
from collectives.bench.sweep import check
from collectives.errors import UnsupportedError
from collectives.topology import LAN, Network, plan_of, predict

SIZES = tuple(1 << exponent for exponent in range(10, 27, 2))


def rows(config: BenchConfig, network: Network, factor: float = 1.0) -> list[Row]:
    """A sweep whose times are those of the model on some network."""
    model, found = Model(config, local=False), []
    for number, size in enumerate(config.sizes):
        plan = plan_of(config.operation, model.algorithm(size), config.ranks)
        seconds = predict(plan, size, network) * factor ** (-1) ** number
        figure = Figure.of([seconds * 1e6], size, 1.0, 1, 0)
        found.append(model.told(Row(size, size // 4, figure, None, None, None, None)))
    return found


def test_a_sweep_is_fitted_and_both_predictions_stand_beside_it() -> None:
    config = BenchConfig(ranks=4, sizes=SIZES)
    true = Network((LAN,))
    found, fitted = Model(config, local=False).fitted(rows(config, true))
    assert fitted is not None and fitted.r2 > 0.999
    for row in found:
        assert row.out_of_place is not None
        # The network was the usual one, so both are what was "measured".
        assert row.predicted_us == pytest.approx(row.out_of_place.median_us)
        assert row.fitted_us == pytest.approx(row.out_of_place.median_us, rel=0.01)
    assert {row.algorithm for row in found} == {"whole", "direct", "ring"}
    assert "ring" in table.Table(config).row(found[-1])


def test_what_the_model_does_not_explain_shows() -> None:
    config = BenchConfig(ranks=4, sizes=SIZES)
    _, fitted = Model(config, local=False).fitted(rows(config, Network((LAN,)), factor=30.0))
    assert fitted is not None and fitted.r2 < 0.8


def test_of_a_few_sizes_nothing_is_fitted() -> None:
    config = BenchConfig(ranks=4, sizes=SIZES[:3])
    made = rows(config, Network((LAN,)))
    assert Model(config, local=False).fitted(made) == (made, None)
    alone = BenchConfig(ranks=1, sizes=SIZES)
    found, fitted = Model(alone, local=True).fitted(
        [Model(alone, local=True).told(row) for row in rows(config, Network((LAN,)))]
    )
    assert fitted is None and found[0].predicted_us == 0.0


def test_one_host_is_memory_or_loopback() -> None:
    def algorithm(transport: str, local: bool) -> str:
        return Model(BenchConfig(ranks=4, transport=transport), local).algorithm(1 << 20)

    assert algorithm("auto", local=True) == algorithm("shm", local=True) == "direct"
    assert algorithm("tcp", local=True) == algorithm("auto", local=False) == "ring"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("star", r"algorithm 'star' does no all_reduce of 1024 bytes; choose from ring"),
        ("rings", r"algorithm 'rings' does no all_reduce"),
    ],
)
def test_an_algorithm_that_cannot_do_it_is_refused(algorithm: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        check(BenchConfig(sizes=(1024,), algorithm=algorithm))
    with pytest.raises(UnsupportedError, match="'whole' does no all_reduce of 1048576 bytes"):
        check(BenchConfig(sizes=(1024, 1 << 20), algorithm="whole"))


def test_the_chosen_algorithm_is_what_is_measured() -> None:
    def measured(*arguments: str) -> dict[str, object]:
        options = "--sizes 1K,4K,16K,64K --ranks 3 --iterations 10 --out-of-place --json -"
        ran = strip.command("bench", "all_reduce", *options.split(), *arguments)
        assert ran.returncode == 0, ran.stderr
        report: dict[str, object] = json.loads(ran.stdout)
        return report

    told = measured("--algorithm", "ring")
    assert told["options"]["algorithm"] == "ring"  # type: ignore[index]
    found = told["sizes"]
    assert isinstance(found, list)
    assert {row["algorithm"] for row in found} == {"ring"}
    assert all(row["predicted_us"] > 0 and row["fitted_us"] > 0 for row in found)
    assert isinstance(told["model"], dict) and told["model"]["r2"] <= 1


@pytest.mark.parametrize("algorithm", [None, "ring"])
def test_the_calls_ask_for_the_algorithm(algorithm: str | None) -> None:
    ours = object.__new__(Ours)
    ours._config = BenchConfig(algorithm=algorithm)
    asked: list[object] = []
    ours.group = SimpleNamespace(all_reduce=lambda array, **options: asked.append(options))
    buffer = np.zeros(4, np.float32)
    ours.call(buffer, buffer, in_place=True)()
    assert asked == [{"op": "sum"} | ({"algorithm": "ring"} if algorithm else {})]
