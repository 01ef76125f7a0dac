"""The real control plane in one process, under a simulated clock, network and data plane.

``world`` wires ``coordinator.decide`` and ``peer.step`` together, every message through its wire
form; ``engine`` is a small data plane whose agreement is the real ``agree.c``. The network delays,
reorders, loses and repeats control messages; ``faults`` kills, stops and cuts. All of it follows
from one seed. What must hold is in ``checks``, what has been tried in ``coverage``.
"""
