"""``make model``: explore all configurations, then all mutants; exit with 1 if a rule broke.

``python -m model PART...`` takes only configurations whose name holds all of the parts.
"""

from __future__ import annotations

import sys

from model.configurations import FULL
from model.explore import explore
from model.mutants import MUTANTS


def main(parts: list[str]) -> int:
    found = []
    for config in FULL:
        if all(part in config.name for part in parts):
            found.append(explore(config))
            print(found[-1], flush=True)
    states = sum(one.states for one in found)
    seconds = sum(one.seconds for one in found)
    print(f"{len(found)} configurations: {states:,} states in {seconds:,.0f} s")
    wrong = any(one.problem for one in found)
    for rules, config in MUTANTS if not parts else ():
        one = explore(config, rules)
        wrong |= not one.problem
        verdict = f"caught in {one.states:,} states" if one.problem else "NOT CAUGHT"
        print(f"mutant: {rules.name}: {verdict}: {one.problem}", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
