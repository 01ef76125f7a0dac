"""The cut of the model that every ``make test`` explores, and each of its mutants.

``make model`` explores the rest. What is claimed: survivors are never told different things,
success of a discarded attempt is never told, nothing is stuck, and from every state an end can be
reached without another fault.
"""

from __future__ import annotations

import pytest

from model.configurations import QUICK
from model.explore import explore
from model.mutants import MUTANTS
from model.rules import Rules
from model.state import Configuration

EASY = [one for one in MUTANTS if one[0].name != "a root that has gone, raised without a round"]


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_survivors_agree_and_nothing_is_stuck(config: Configuration):
    found = explore(config, ends=True)
    print(found)
    assert not found.problem, found
    assert found.hopeless == 0
    assert found.states > 50  # or the faults did nothing


@pytest.mark.parametrize(("rules", "config"), EASY, ids=lambda one: getattr(one, "name", ""))
def test_a_rule_left_out_is_caught(rules: Rules, config: Configuration):
    found = explore(config, rules, limit=20_000)
    print(found)
    assert found.problem
    assert found.trace
    with_all_rules = explore(config, ends=True)
    assert not with_all_rules.problem, with_all_rules
    assert with_all_rules.hopeless == 0


def test_every_rule_has_a_mutant():
    names = [rules.name for rules, _ in MUTANTS]
    assert len(set(names)) == len(names)
    changed = {
        attribute
        for rules, _ in MUTANTS
        for attribute in vars(type(rules))
        if not attribute.startswith("__") and attribute not in ("name", "may_take")
    }
    rules = {attribute for attribute in vars(Rules) if not attribute.startswith("__")}
    # Of a Seal that should be refused, and is not, no harm is known that the model could show.
    assert rules - changed == {"name", "may_take", "close"}
