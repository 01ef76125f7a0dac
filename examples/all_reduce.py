"""Average numpy arrays over peers.

In one terminal start the coordinator, in two others the same script::

    collectives coordinator --bind 127.0.0.1:7077
    COLLECTIVES_COORDINATOR=127.0.0.1:7077 python examples/all_reduce.py
    COLLECTIVES_COORDINATOR=127.0.0.1:7077 python examples/all_reduce.py
"""

import numpy as np

import collectives

with collectives.join(min_size=2) as group:
    values = np.full(1_000_000, group.rank + 1, dtype=np.float32)
    result = group.all_reduce(values, op="avg")  # in place; out= keeps the input
    print(f"rank {group.rank} of {group.size}: {values[0]} from {len(result.contributors)} peers")
