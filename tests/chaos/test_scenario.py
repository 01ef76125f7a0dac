"""Scenarios: written and read again they are the same; each mistake is named, with its cure."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collectives.chaos import profiles, toml
from collectives.chaos.faults import Fault, Moment
from collectives.chaos.kinds import KINDS, OPERATION_PHASES, ROUND_PHASES
from collectives.chaos.parts import WORKLOADS, Between, Links, Place, Workload, places
from collectives.chaos.rates import MIX, Mix, Rate
from collectives.chaos.scenario import Scenario
from collectives.chaos.spec import COORDINATOR, PROFILES, Parameter
from collectives.errors import InvalidArgument
from collectives.options import Options

HEAD = 'name = "x"\n'
POSITIVE = st.floats(1e-6, 1e6)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def value_of(row: Parameter, peers: list[str]) -> st.SearchStrategy:
    """Anything that a parameter may be."""
    return {
        "seconds": POSITIVE,
        "moment": st.floats(0, 1e6),
        "share": st.floats(0.001, 1),
        "portion": st.floats(0, 1),
        "bits": st.floats(1, 1e12),
        "rate": st.floats(0, 1e4),
        "count": st.integers(1, 10**9),
        "number": st.integers(0, 10**9),
        "flag": st.booleans(),
        "text": TEXT,
        "texts": st.lists(TEXT, max_size=3).map(tuple),
        "choice": st.sampled_from(row.choices or ("",)),
        "peer": st.sampled_from(peers),
        "side": st.lists(st.sampled_from(peers), min_size=1, max_size=2, unique=True).map(tuple),
    }[row.type]


@st.composite
def some(draw: st.DrawFn, rows: tuple[Parameter, ...], peers: list[str]) -> dict[str, object]:
    """Values for the required ones of these rows, and for some of the others."""
    chosen = [row for row in rows if row.required or draw(st.booleans())]
    return {row.attribute: draw(value_of(row, peers)) for row in chosen}


@st.composite
def faults(draw: st.DrawFn, peers: list[str], duration: float) -> Fault:
    kind = KINDS[draw(st.sampled_from([name for name in KINDS if name != "join"]))]
    values = draw(some(kind.parameters, peers[1:]))
    if "a" in values:
        values["a"] = (peers[0],)
    if kind.name == "link":
        shape = ("rate_up", "rate_down", "delay", "jitter")
        by_profile = draw(st.booleans())
        values = {key: values[key] for key in values if key not in (*shape, "profile")}
        values |= {"profile": "dsl"} if by_profile else {"delay": draw(st.floats(0, 1))}
    at = draw(st.floats(0, duration, exclude_max=True))
    if kind.momentary and draw(st.booleans()):
        phase = draw(st.sampled_from(OPERATION_PHASES + ROUND_PHASES))
        number = draw(st.integers(0, 10**6))
        return Fault(kind.name, moment=Moment(phase, number, at, 2), **values)
    return Fault(kind.name, at=at, **values)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    count = draw(st.integers(3, 6))
    peers = [f"n{index}" for index in range(count)]
    duration = draw(POSITIVE)
    kind = draw(st.sampled_from(list(WORKLOADS)))
    rates = []
    for name in draw(st.lists(st.sampled_from(list(KINDS)), unique=True, max_size=4)):
        ranges = [(row.name, row.drawn) for row in KINDS[name].parameters if row.drawn]
        rates.append(Rate(name, draw(st.floats(0, 100)), tuple(draw(st.permutations(ranges)))))
    mix = Mix(tuple(rates), **draw(some(MIX, peers))) if draw(st.booleans()) else None
    if mix is not None and mix.spare == 0:
        mix = dataclasses.replace(mix, spare=1)
    return Scenario(
        "any",
        about=draw(TEXT),
        peers=places(count)
        if draw(st.booleans())
        else tuple(Place(name, draw(st.sampled_from([None, "h"])), "s") for name in peers),
        duration=duration,
        seed=draw(st.none() | st.integers(0, 2**31 - 1)),
        journal=draw(st.booleans()),
        workload=Workload(kind, **draw(some(WORKLOADS[kind][1], peers))),
        options=draw(
            st.sampled_from(
                [Options(), Options(detection=None, connections=3), Options(port_range=(5, 9))]
            )
        ),
        links=Links("lan", (Between(("*",), (COORDINATOR,), "5g"),)),
        mix=mix,
    )


@given(scenarios(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_scenario_that_is_written_and_read_is_the_same(found: Scenario, data: st.DataObject):
    names = [place.name for place in found.peers]
    timeline = data.draw(st.lists(faults(names, found.duration), max_size=4))
    found = dataclasses.replace(found, faults=tuple(timeline))
    text = found.to_toml()
    again = Scenario.from_toml(text)
    assert again == found
    assert again.to_toml() == text


def test_links_in_namespaces_are_shaped_whatever_they_are_like_and_are_written_down() -> None:
    scenario = Scenario("x", links=Links("direct", kind="namespaces"))
    assert scenario.proxied
    assert Scenario.from_toml(scenario.to_toml()) == scenario


@given(
    st.recursive(
        st.text(st.characters(exclude_categories=("Cs",))) | st.booleans() | st.integers(-9, 2**60)
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    )
)  # fmt: skip
@example("\x00\n\t\x1f\x7f\x80\u2028\\\"'\U0001f600")
@settings(max_examples=60, deadline=None)
def test_values_survive_toml(value: object):
    assert toml.loads(toml.dumps({"key": value, "table": {"key": value}})) == {
        "key": value,
        "table": {"key": value},
    }


MISTAKES = [
    ("", "name is missing"),
    ("name = ", "not TOML"),
    (HEAD + "duraton = 3", "perhaps 'duration'"),
    (HEAD + "duration = -1", "duration is -1"),
    (HEAD + "duration = true", "duration is True"),
    (HEAD + "duration = nan", "duration is nan"),
    (HEAD + 'duration = "3"', "must be a number of seconds"),
    (HEAD + "peers = 0", "peers is 0"),
    (HEAD + "peers = 2\n[[peer]]\nname = 'a'", "'peers' and [[peer]]"),
    (HEAD + "[[peer]]\nnam = 'a'", "[[peer]] number 1: 'nam' is no key here, perhaps 'name'"),
    (HEAD + "[[peer]]\nname = 'a'\n[[peer]]\nname = 'a'", "two peers are called 'a'"),
    (HEAD + "[[peer]]\nname = 'random'", "'random' cannot name a peer"),
    (HEAD + "[[peer]]\nname = 'a'\nhost = 'b'\n[[peer]]\nname = 'b'", "cannot name a host"),
    (HEAD + "min_size = 5", "min_size is 5, but there are 4"),
    (HEAD + "[workload]\nkind = 'alreduce'", "perhaps 'allreduce'"),
    (HEAD + "[workload]\ncont = 3", "[workload]: 'cont' is no key here, perhaps 'count'"),
    (HEAD + "[workload]\ndtype = 'flot32'", "dtype is 'flot32'; it must be one of float64, "
     "float32, float16, int32, int64, uint64, perhaps 'float32'"),
    (HEAD + "[workload]\nkind = 'state'\ncount = 3", "'count' is no key here"),
    (HEAD + "[workload]\nkind = 'script'", "script is missing"),
    (HEAD + "[options]\ndetecton = 3", "[options]: 'detecton' is no key here, perhaps 'detection'"),
    (HEAD + "[options]\ndetection = 'x'", "detection is 'x'"),
    (HEAD + "[options]\ndetection = 0.1", "Options.detection is 0.1"),
    (HEAD + "[options]\nconnections = 1.5", "connections is 1.5"),
    (HEAD + "workload = 3", "it must be a table, [workload]"),
    (HEAD + "[links]\ndefault = 'dls'", "perhaps 'dsl'"),
    (HEAD + "[[links.between]]\na='p0'\nb='p9'\nprofile='lan'", "between]] number 1: there is no"),
    (HEAD + "[[links.between]]\na='p0'\nb='p1'", "profile is missing"),
    (HEAD + "fault = 3", "write [[fault]]"),
    (HEAD + "[[fault]]\nat = 1", "None is no kind of fault"),
    (HEAD + "[[fault]]\nkind = 'kil'\nat = 1", "[[fault]] number 1: 'kil' is no kind of fault, "
     "perhaps 'kill'"),
    (HEAD + "[[fault]]\nkind = 'kill'\nat = 1", "kill: peer is missing"),
    (HEAD + "[[fault]]\nkind = 'kill'\nat = 1\npeer = 'p7'", "there is no 'p7' here"),
    (HEAD + "[[fault]]\nkind = 'kill'\npeer = 'p1'", "neither of 'at' and 'moment'"),
    (HEAD + "[[fault]]\nkind = 'kill'\nat = -1\npeer = 'p1'", "at is -1"),
    (HEAD + "[[fault]]\nkind = 'kill'\nat = 20\npeer = 'p1'", "but the run lasts 20 s"),
    (HEAD + "[[fault]]\nkind = 'kill'\nat = 1\npeer = 'p1'\nfor = 2", "a kill has no 'for'; these"),
    (HEAD + "[[fault]]\nkind = 'stop'\nat = 1\npeer = 'p1'\nrestart = 2", "no 'restart'; these"),
    (HEAD + "[[fault]]\nkind = 'stop'\nat = 1\npeer = 'p1'", "for is missing"),
    (HEAD + "[[fault]]\nkind = 'kill'\nat = 1\npeer = 'p1'\nmoment = { phase = 'sealed' }",
     "both of 'at' and 'moment'"),
    (HEAD + "[[fault]]\nkind = 'kill'\npeer = 'p1'\nmoment = { phase = 'gather' }",
     "moment: phase is 'gather'"),
    (HEAD + "[[fault]]\nkind = 'kill'\npeer = 'p1'\nmoment = { fase = 'sealed' }",
     "perhaps 'phase'"),
    (HEAD + "[[fault]]\nkind = 'kill'\npeer = 'p1'\nmoment = 3", "write moment = {"),
    (HEAD + "[[fault]]\nkind = 'leave'\npeer = 'p1'\nmoment = { phase = 'sealed' }",
     "cannot be aimed at a moment; kill, stop can"),
    (HEAD + "[[fault]]\nkind = 'link'\nat = 1\na = 'p0'", "either 'profile' or some of"),
    (HEAD + "[[fault]]\nkind = 'link'\nat = 1\na = 'p0'\nprofile = 'lan'\ndelay = 1",
     "either 'profile' or some of"),
    (HEAD + "[[fault]]\nkind = 'partition'\nat = 1\na = 'p0'\nfor = 1\nway = 'up'", "way is 'up'"),
    (HEAD + "[[fault]]\nkind = 'reset'\nat = 1\na = ['p0', 'p1']\nb = 'p1'", "p1 would be on both"),
    (HEAD + "[[fault]]\nkind = 'flip'\nat = 1\na = 'p0'\nb = 'coordinator'", "no 'coordinator'"),
    (HEAD + "[[fault]]\nkind = 'join'\nat = 1\npeer = 'p0'", "'p0' is taken"),
    (HEAD + "[[fault]]\nkind = 'join'\nat = 1\npeer = 'n'\ncount = 2", "cannot all be 'n'"),
    (HEAD + "[links]\ndefault = 'direct'\n[[fault]]\nkind = 'reset'\nat = 1\na = 'p0'",
     "faults that need the proxy"),
    (HEAD + "[links]\nkind = 'namespaces'\n[[fault]]\nkind = 'flip'\nat = 1\na = 'p0'",
     "only the proxy can do flip"),
    (HEAD + "[links]\nkind = 'namespaces'\n[mix]\nreset = 3", "only the proxy can do reset"),
    (HEAD + "[links]\nkind = 'veth'\n[mix]\nlink = 3", "where no link can change"),
    (HEAD + "[links]\nkind = 'tunnels'", "kind is 'tunnels'"),
    (HEAD + "[mix]\nkil = 3", "[mix]: 'kil' is no key here, perhaps 'kill'"),
    (HEAD + "[mix]\nkill = -3", "rate is -3"),
    (HEAD + "[mix]\nkill = { restart = 1 }", "kill: rate is missing"),
    (HEAD + "[mix]\nkill = { rate = 1, restart = [3, 1] }", "write [least, most]"),
    (HEAD + "[mix]\nkill = { rate = 1, for = 1 }", "'for' is no key here"),
    (HEAD + "[mix]\nkill = { rate = 1, peers = 'p9' }", "there is no 'p9'"),
    (HEAD + "[mix]\nkill = 1\nspare = 0", "kill needs a peer that can be spared"),
    (HEAD + "peers = 2\n[mix]\nkill = 1", "kill needs a peer that can be spared"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_a_mistake_is_named_with_its_file_and_its_cure(text: str, words: str):
    with pytest.raises(InvalidArgument) as caught:
        Scenario.from_toml(text, "my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert words in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["kind", "at", "peer", "a", "rate"]), inner, max_size=2
            )
        ),
        max_leaves=5,
    ),
    st.sampled_from(
        ["name", "peers", "peer", "seed", "workload", "options", "links", "fault", "mix", "about"]
    ),
    st.sampled_from([None, "kind", "default", "between", "kill", "spare", "detection"]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_a_table_holds_the_error_is_ours(value: object, key: str, inner: str | None):
    from collectives.chaos.document import arguments

    document = {"name": "x", key: {inner: value} if inner else value}
    try:
        Scenario(**arguments(document))
    except InvalidArgument:
        return  # any other exception is a failure


def test_a_python_file_may_define_a_scenario_or_a_function_of_the_seed(tmp_path: Path):
    start = "from collectives.chaos.scenario import Scenario\n"
    path = tmp_path / "mine.py"
    path.write_text(start + "scenario = Scenario('one')")
    assert Scenario.from_file(path) == Scenario("one")
    path.write_text(start + "def scenario(seed): return Scenario('two', seed=seed)")
    assert Scenario.from_file(path, 7) == Scenario("two", seed=7)
    for text, words in (
        ("x = 1", "defines no scenario"),
        ("scenario = 3", "defines no scenario"),
        ("1 / 0", "ZeroDivisionError"),
        (start + "scenario = Scenario('a', duration=-1)", "duration is -1"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match=words) as caught:
            Scenario.from_file(path)
        assert str(path) in str(caught.value)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        Scenario.from_file(tmp_path / "none.toml")


def test_sides_are_resolved_by_peer_host_and_site():
    peers = (Place("a", "h", "s"), Place("b", "h"), Place("c", None, "s"), Place("d"))
    scenario = Scenario("x", peers=peers)
    assert scenario.resolve(["h"]) == ("a", "b")
    assert scenario.resolve(["s", "d"]) == ("a", "c", "d")
    assert scenario.resolve(["*"], ["new"]) == ("a", "b", "c", "d", "new")
    cut = Fault("partition", at=1, a=("h",), lasting=1)
    assert set(scenario.pairs(cut, ["new"])) == {(x, y) for x in "ab" for y in ("c", "d", "new")}
    cut = Fault("reset", at=1, a=("a",), b=("coordinator",))
    assert list(scenario.pairs(cut)) == [("a", "coordinator")]


def test_the_last_link_that_fits_counts_and_says_which_side_has_the_uplink():
    peers = (Place("a", "h"), Place("b", "h"), Place("c"), Place("d"))
    between = (Between(("c",), ("*",), "dsl"), Between(("c",), ("d",), "wifi"))
    scenario = Scenario("x", peers=peers, links=Links("lan", between))
    assert scenario.profile("a", "d") == ("lan", True)
    assert scenario.profile("a", "b") == ("unshaped", True)
    assert scenario.profile("c", "a") == ("dsl", True)
    assert scenario.profile("a", "c") == ("dsl", False)
    assert scenario.profile("d", "c") == ("wifi", False)
    assert scenario.profile("d", "new") == ("lan", True)
    assert Scenario("x").profile("p0", "p1") == ("direct", True)
    assert not Scenario("x").proxied
    assert Scenario("x", faults=(Fault("reset", at=1, a=("p0",)),)).default_profile == "unshaped"


def test_scaling_moves_faults_with_the_time_and_adds_places_on_the_hosts_in_turn():
    scenario = Scenario(
        "x",
        peers=(Place("p0", "h"), Place("p1", "i", "s")),
        duration=10,
        faults=(Fault("stop", at=4, peer="p1", lasting=2), Fault("join", at=5, peer="p2")),
    )
    longer = scenario.scaled(peers=4, duration=20)
    assert [fault.at for fault in longer.faults] == [8, 10]
    assert longer.faults[0].lasting == 2
    assert longer.peers[2:] == (Place("p3", "h"), Place("p4", "i", "s"))
    assert scenario.scaled() == scenario
    with pytest.raises(InvalidArgument, match="no 'p1'"):
        scenario.scaled(peers=1)
    with pytest.raises(InvalidArgument, match="no peers"):
        scenario.scaled(peers=0)


def test_phases_are_those_of_the_engine():
    from collectives._native import engine

    assert tuple(engine._PHASES) == OPERATION_PHASES + ROUND_PHASES


def test_every_kind_and_parameter_is_explained_and_can_be_drawn():
    for kind in KINDS.values():
        assert kind.about.endswith(".")
        for row in kind.rows:
            assert row.about
            assert row.type != "choice" or row.choices
            if row.drawn:
                assert row.take(row.drawn[0]) <= row.take(row.drawn[1])
                assert math.isfinite(row.drawn[1])


def test_profiles_are_those_of_the_proxy():
    assert {"direct", *profiles.PROFILES} == set(PROFILES)
