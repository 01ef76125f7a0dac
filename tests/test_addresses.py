"""Where peers listen, what they tell others, and who dials whom."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import secrets
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import collectives
from collectives import Options
from collectives._native import lib
from collectives._native.engine import Engine, EngineGroup, EnginePeer
from crew import Crew, Member
from proxy import free_port
from raw_peer import Call, open_group, until

SOON = 5.0  # seconds in which a link must come up though some addresses are dead
LOOPBACK = ("127.0.0.1",)


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def engine(peer_id: uuid.UUID | None = None, **options: Any) -> Iterator[Engine]:
    made = Engine(Options(transport="tcp", **options), peer_id or uuid.uuid4())
    try:
        yield made
    finally:
        made.close()


def hosts_and_ports(made: Engine) -> tuple[set[str], set[int]]:
    parts = [found.rpartition(":") for found in made.addresses]
    return {host.strip("[]") for host, _, _ in parts}, {int(port) for _, _, port in parts}


def is_ready(made: EngineGroup) -> bool:
    while event := made.next_event():
        if event.kind == lib.COLL_EVENT_VIEW_READY:
            return True
    return False


@contextlib.contextmanager
def talking(
    ids: tuple[uuid.UUID, uuid.UUID],
    engines: tuple[Engine, Engine],
    addresses: tuple[tuple[str, ...], tuple[str, ...]],
) -> Iterator[float]:
    """Both in a view with these addresses, and a barrier made; the seconds that took."""
    key = secrets.token_bytes(32)
    peers = [EnginePeer(i, n, a) for i, n, a in zip(ids, "AB", addresses, strict=True)]
    groups: list[EngineGroup] = []
    try:
        began = time.monotonic()
        for rank, one in enumerate(engines):
            groups.append(open_group(one, 1, rank, peers, key))
        for group in groups:
            until(lambda group=group: is_ready(group), "no link came up")
            group.commit(1, 1, 1)
        seconds = time.monotonic() - began
        calls = [Call(group, lib.COLL_BARRIER, None) for group in groups]
        assert [call.wait()[0] for call in calls] == [lib.COLL_OK] * 2
        yield seconds
    finally:
        for group in groups:
            group.close()


def ordered() -> tuple[uuid.UUID, uuid.UUID]:
    """Two ids, of which the first dials first."""
    first, second = sorted((uuid.uuid4(), uuid.uuid4()), key=lambda one: one.bytes)
    return first, second


@contextlib.contextmanager
def blackhole() -> Iterator[str]:
    """An address that answers nothing: its queue of connections is full, SYNs are dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.2)
        with pytest.raises(TimeoutError):
            probe.connect(listener.getsockname())
        yield address(*listener.getsockname())


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield address(*listener.getsockname()[:2])


def refused() -> str:
    return address("127.0.0.1", free_port())


# ---- listening -------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", [("127.0.0.1",), ("::1",), ("127.0.0.1", "::1"), ("127.0.0.2",)])
def test_peers_listen_where_they_are_told_and_nowhere_else(bind):
    first, second = ordered()
    with engine(first, bind=bind) as a, engine(second, bind=bind) as b:
        hosts, ports = hosts_and_ports(a)
        assert hosts == set(bind)
        assert len(ports) == 1  # shared
        for one in a.addresses:
            for other in b.addresses:
                with talking((first, second), (a, b), ((one,), (other,))):
                    pass
        elsewhere = {"127.0.0.1", "::1", "127.0.0.2"} - set(bind)
        for host in elsewhere:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, ports.copy().pop()), 1).close()


@pytest.mark.parametrize("bind", [(), ("::",)])
def test_by_default_both_protocols_are_listened_on_everywhere(bind):
    with engine(bind=bind) as one:
        hosts, ports = hosts_and_ports(one)
        assert {"127.0.0.1", "::1"} <= hosts
        assert not hosts & {"::", "0.0.0.0"}
        (port,) = ports
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 1).close()
        # Others cannot reach loopback addresses: they are the last to try.
        assert one.addresses[-1].startswith(("127.", "[::1]"))


def test_a_wildcard_of_one_protocol_stays_with_it():
    with engine(bind=("0.0.0.0",)) as one:
        hosts, (port, *_) = hosts_and_ports(one)
        assert "127.0.0.1" in hosts and not any(":" in host for host in hosts)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", port), 1).close()


def taken(count: int, host: str = "127.0.0.1") -> tuple[int, contextlib.ExitStack]:
    """A range of `count` ports, all free but the first."""
    for _ in range(100):
        low = free_port(host)
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            first = stack.enter_context(listening(host, low))
            for port in range(low + 1, low + count):
                for each in ("127.0.0.1", "::1"):
                    listening(each, port).close()
            other = "::1" if host == "127.0.0.1" else "127.0.0.1"
            listening(other, low).close()
            assert first
            return low, stack.pop_all()
    raise AssertionError("no free ports")


def listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def test_ports_are_taken_from_the_range_in_turn():
    low, occupied = taken(3)
    options = {"bind": LOOPBACK, "port_range": (low, low + 2)}
    with occupied, engine(**options) as a, engine(**options) as b:
        assert hosts_and_ports(a)[1] == {low + 1}
        assert hosts_and_ports(b)[1] == {low + 2}
        with pytest.raises(collectives.CollectiveError, match=rf"127.0.0.1.*{low} to {low + 2}"):
            Engine(Options(**options), uuid.uuid4())


def test_several_addresses_share_a_port_also_if_the_first_is_taken_on_one_of_them():
    low, occupied = taken(2, "::1")
    with occupied, engine(bind=("127.0.0.1", "::1"), port_range=(low, low + 1)) as one:
        assert hosts_and_ports(one) == ({"127.0.0.1", "::1"}, {low + 1})


def test_an_interface_may_be_named():
    first, second = ordered()
    with engine(first, interface="lo") as a, engine(second, interface="lo") as b:
        hosts, ports = hosts_and_ports(a)
        assert "127.0.0.1" in hosts and len(ports) == 1
        assert all(host == "::1" or host.startswith("127.") for host in hosts)
        with talking((first, second), (a, b), (a.addresses, b.addresses)):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interface": "nosuch0"}, "nosuch0.*ip address"),
        ({"bind": ("192.0.2.77",)}, "192.0.2.77.*choose another bind"),
        ({"bind": ("nonsense",)}, "nonsense"),
        ({"bind": ("127.0.0.1:80",)}, "127.0.0.1:80"),
    ],
)
def test_where_nobody_can_listen_the_error_says_so(options, message):
    with pytest.raises(collectives.CollectiveError, match=message):
        Engine(Options(**options), uuid.uuid4())


# ---- dialling --------------------------------------------------------------------------------


def test_dead_addresses_before_the_live_one_cost_little_time():
    first, second = ordered()
    with (
        engine(first, bind=LOOPBACK) as a,
        engine(second, bind=LOOPBACK) as b,
        blackhole() as dark,
        mute() as silent,
    ):
        told = (refused(), dark, silent, "no address", dark, *b.addresses)
        # The one who would dial at once knows the dead ones; the other one knows none, or can.
        for other in ((), a.addresses):
            with talking((first, second), (a, b), (other, told)) as seconds:
                assert seconds < SOON


def test_an_address_of_another_peer_is_not_taken_for_the_right_one():
    first, second = ordered()
    with (
        engine(first, bind=LOOPBACK) as a,
        engine(second, bind=LOOPBACK) as b,
        engine(bind=LOOPBACK) as stranger,
    ):
        told = (*stranger.addresses, *a.addresses, *b.addresses)
        with talking((first, second), (a, b), ((), told)) as seconds:
            assert seconds < SOON
        assert stranger.counters().refused_view >= 1


@pytest.mark.parametrize("reachable", [0, 1])
@pytest.mark.parametrize("dead", ["refused", "blackhole", "none"])
@pytest.mark.parametrize("connections", [1, 3])
def test_one_direction_is_enough_whoever_dials_first(reachable, dead, connections):
    ids = ordered()
    options = {"bind": LOOPBACK, "connections": connections}
    with engine(ids[0], **options) as a, engine(ids[1], **options) as b, blackhole() as dark:
        engines = (a, b)
        wrong = {"refused": (refused(),), "blackhole": (dark,), "none": ()}[dead]
        told = [wrong, wrong]
        told[reachable] = engines[reachable].addresses
        with talking(ids, engines, (told[0], told[1])) as seconds:
            assert seconds < SOON
            # And all the connections come up, though but one side can open them.
            until(
                lambda: a.counters().open_connections >= connections,
                "the other connections did not come up",
            )


# ---- joining ---------------------------------------------------------------------------------


def addresses_of(group: Any) -> dict[str, tuple[str, ...]]:
    group.barrier()
    return {peer.name: peer.addresses for peer in group.peers}


@pytest.mark.parametrize("named", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_what_is_advertised_is_what_others_dial(named):
    port, other = free_port(), free_port()
    options = [
        {"bind": ("127.0.0.1", "::1"), "port_range": (port, port), "advertise": (named,)},
        {
            "bind": ("127.0.0.1", "::1"),
            "port_range": (other, other),
            "advertise": (address("127.0.0.1", other), address("::1", other)),
        },
    ]
    with Crew(2, options) as crew:
        told = crew.get(addresses_of)[0]
        assert told["p0"] == (address(named.strip("[]"), port),)
        assert told["p1"] == (f"127.0.0.1:{other}", f"[::1]:{other}")


def test_a_pair_that_cannot_talk_is_named_with_what_was_tried_and_why():
    dead = [refused(), refused()]
    coordinator = collectives.Coordinator("127.0.0.1:0")
    with coordinator:
        members = [Member(index) for index in range(2)]
        try:
            for index, member in enumerate(members):
                arguments = {"name": f"p{index}", "min_size": 2, "timeout": 20.0}
                options = {
                    "transport": "tcp", "bind": LOOPBACK, "advertise": (dead[index],),
                }  # fmt: skip
                member.start("crew:join", coordinator.address, arguments, options)
            # One of the two is not admitted; the other one goes on waiting for peers.
            (ended, *_) = multiprocessing.connection.wait([m._pipe for m in members], 30)
            outcome = next(m for m in members if m._pipe is ended).result()
        finally:
            for member in members:
                member.kill()
                member.end()
    print(outcome.message)
    assert outcome.error == "Evicted", outcome.trace
    assert "'p0'" in outcome.message and "'p1'" in outcome.message
    assert any(one in outcome.message for one in dead)
    assert "refused" in outcome.message
