"""What a plan costs on a network, and which one to take: pure functions, no sockets.

Called by the bench, by ``collectives explain``, and by whoever measures links and wants a table.
"""

from __future__ import annotations

from collectives.topology.fit import Sample, fit
from collectives.topology.model import Prediction, predict
from collectives.topology.network import (
    LAN,
    LEVELS,
    LOOPBACK,
    MEMORY,
    WAN,
    Level,
    Network,
    network_of,
    usual,
)
from collectives.topology.plans import Plan, algorithms, choose, plan_of
from collectives.topology.table import UNLIMITED, LevelRow, Row, Table

__all__ = [
    "LAN",
    "LEVELS",
    "LOOPBACK",
    "MEMORY",
    "UNLIMITED",
    "WAN",
    "Level",
    "LevelRow",
    "Network",
    "Plan",
    "Prediction",
    "Row",
    "Sample",
    "Table",
    "algorithms",
    "choose",
    "fit",
    "network_of",
    "plan_of",
    "predict",
    "usual",
]
