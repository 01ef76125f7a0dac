"""Agents and a coordinator over real sockets, with data planes that move nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgpack
import pytest
import zmq
from fakes import TIMEOUT, FakePlane, failed
from verdicts import decode_verdict

from collectives import errors
from collectives.membership import codec, messages, wire
from collectives.membership import plane as plane_events
from collectives.membership.agent import Agent
from collectives.membership.ledger import Timing
from collectives.membership.peer import Phase
from collectives.membership.query import query_status
from collectives.membership.report import Error, Report, Verdict, decode_epoch, encode_report
from collectives.membership.server import Coordinator

QUICK = Timing(prepare_patience=0.8, pair_patience=0.5, hesitation=5.0, waiting_silence=2.0)
LIMIT = 10.0


def eventually(what: Callable[[], object], limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.005)


class Run:
    """A coordinator, its agents and threads for their blocking calls."""

    def __init__(self, token: str | None = None, timing: Timing | None = None) -> None:
        self.coordinator = Coordinator("127.0.0.1:0", token=token, timing=timing)
        self.token = token
        self.agents: list[Agent] = []
        self.planes: list[FakePlane] = []
        self.pool = ThreadPoolExecutor(32)

    def agent(self, name: str = "", min_size: int = 1, **options) -> Agent:
        plane = FakePlane()
        self.planes.append(plane)
        options.setdefault("token", self.token)
        agent = Agent(
            options.pop("address", self.coordinator.address),
            name=name or f"p{len(self.agents)}",
            min_size=min_size,
            plane=plane,
            addresses=(f"127.0.0.1:{len(self.agents) + 1}",),
            **options,
        )
        self.agents.append(agent)
        return agent

    def form(self, count: int) -> list[Agent]:
        agents = [self.agent(min_size=count) for _ in range(count)]
        views = self.all(agents, lambda agent: agent.join(LIMIT))
        assert len(set(views)) == 1
        return agents

    def all(self, agents: list[Agent], call: Callable[[Agent], object]) -> list:
        futures = [self.pool.submit(call, agent) for agent in agents]
        return [future.result(LIMIT + 5) for future in futures]

    def joining(self, agent: Agent) -> Future:
        future = self.pool.submit(agent.join, LIMIT)
        eventually(lambda: agent.state.phase is Phase.WAITING)
        return future

    def reasons(self) -> str:
        return "; ".join(r.text for r in self.coordinator.state.groups["default"].reasons)

    def refused(self, reason: str) -> int:
        return self.coordinator.state.refused.get(reason, 0)

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        for plane in self.planes:
            plane.close()
        self.coordinator.close()
        self.pool.shutdown()


def open_descriptors() -> set[str]:
    """The descriptors of this process, but for the one that looks."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


@contextlib.contextmanager
def running(**options):
    threads, descriptors = threading.active_count(), open_descriptors()
    run = Run(**options)
    try:
        yield run
    finally:
        run.close()
    # A thread's last act is after its join(); zmq closes its sockets in a thread of its own.
    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: open_descriptors() <= descriptors)


@pytest.fixture
def run():
    with running() as run:
        yield run


@pytest.mark.parametrize("count", [2, 3, 5])
def test_peers_meet_in_one_view(run, count):
    agents = run.form(count)
    view = agents[0].view
    assert view.size == count
    assert sorted(p.name for p in view.peers) == sorted(f"p{i}" for i in range(count))
    for agent, plane in zip(agents, run.planes, strict=True):
        assert [call[0] for call in plane.calls] == ["open", "prepare", "commit"]
        assert plane.view.key == view.key
        rank = view.rank_of(agent.state.config.id)
        assert view.peers[rank].addresses == agent.state.config.addresses


def test_join_says_for_whom_it_waits(run, caplog):
    caplog.set_level("INFO", "collectives.membership")
    first, second = run.agent("a", 4), run.agent("b", 4)
    futures = [run.joining(first), run.joining(second)]
    eventually(lambda: first.waiting_for == "2 more peers (have: a, b)")
    assert "waiting for 2 more peers (have: a, b)" in caplog.text
    with pytest.raises(errors.Timeout, match=r"waits for 2 more peers \(have: a, b\)"):
        first.join(0.05)
    assert isinstance(run.pool.submit(first.join, LIMIT), Future), "it may go on waiting"
    others = [run.joining(run.agent("c", 4)), run.pool.submit(run.agent("d", 4).join, LIMIT)]
    assert {f.result(LIMIT).size for f in (*futures, *others)} == {4}


def test_a_late_peer_is_admitted_at_the_next_sync(run):
    agents = run.form(2)
    late = run.agent("late")
    future = run.joining(late)
    eventually(lambda: "must call sync()" in late.waiting_for)
    assert not future.done()
    outcomes = run.all(agents, lambda agent: agent.sync(41, LIMIT))
    assert {outcome.joined for outcome in outcomes} == {("late",)}
    view = future.result(LIMIT)
    assert view == outcomes[0].view == agents[0].view
    assert view.first_operation == 42
    assert [p.name for p in view.peers][:2] == [p.name for p in view.peers if p.name != "late"]
    assert {p.calls[-1] for p in run.planes} == {("commit", view.number, 42)}


def test_a_sync_without_news_keeps_the_view(run):
    agents = run.form(3)
    view = agents[0].view
    for _ in range(3):
        outcomes = run.all(agents, lambda agent: agent.sync(1, LIMIT))
        assert {(o.view, o.joined, o.left) for o in outcomes} == {(view, (), ())}


def test_a_leaver_is_announced_and_missing_from_the_next_view(run):
    agents = run.form(3)
    leaver, others = agents[1], [agents[0], agents[2]]
    leaver.leave(LIMIT)
    staying = tuple(p for p in leaver.view.peers if p.id != leaver.state.config.id)
    for agent, plane in zip(others, (run.planes[0], run.planes[2]), strict=True):
        eventually(lambda plane=plane: plane.verdicts)
        assert decode_verdict(plane.verdicts[0]).members == tuple(p.id for p in staying)
        eventually(lambda agent=agent: agent.state.view.peers == staying)
        assert agent.view.size == 3, "what the user knows changes in sync() only"
    assert "round 1 about view 1: 'p1' left" in run.reasons()
    with pytest.raises(errors.CollectiveError, match="has left"):
        leaver.sync(0, LIMIT)
    newcomer = run.joining(run.agent("new"))  # min_size is 3
    outcomes = run.all(others, lambda agent: agent.sync(0, LIMIT))
    assert {(o.joined, o.left) for o in outcomes} == {(("new",), ("p1",))}
    assert newcomer.result(LIMIT).size == 3


def test_a_suspected_peer_is_lost_to_all_and_learns_that_it_was_evicted(run):
    agents = run.form(3)
    dead = agents[2].state.config.id
    evidence = plane_events.PeerSuspected(agents[0].view.number, dead, "its process ended", 2)
    run.planes[0].emit(evidence)
    for plane in run.planes[:2]:
        eventually(lambda plane=plane: plane.verdicts)
        assert dead not in decode_verdict(plane.verdicts[0]).members
    text = "'p2' is dead, its process ended (seen by 'p0')"
    assert f"round 1 about view 1: {text}" in run.reasons()
    with pytest.raises(errors.Evicted, match=r"seen by 'p0'\); call rejoin\(\)"):
        agents[2].sync(0, LIMIT)
    eventually(lambda: run.planes[2].ended)
    assert run.planes[2].ended == [f"{text}; call rejoin()"], "its own data plane has ended too"


def test_an_agent_closed_without_leaving_is_lost_to_the_others_at_once(run):
    agents = run.form(2)
    began = time.monotonic()
    agents[1].close("ValueError: no")
    eventually(lambda: run.planes[0].verdicts)
    assert time.monotonic() - began < 1.0
    assert "round 1 about view 1: 'p1' aborted: ValueError: no" in run.reasons()


def test_a_broken_group_is_mended_by_a_new_view(run):
    agents = run.form(2)
    number = agents[0].view.number
    # The event is queued, not yet seen by the agent, when sync is called: it must still count.
    run.planes[1].report = failed(3, "gave up")
    run.planes[1].events.append(plane_events.Vetoed(number, "gave up"))
    outcomes = run.all(agents, lambda agent: agent.sync(3, LIMIT))
    assert {(o.view.number, o.joined, o.left) for o in outcomes} == {(number + 2, (), ())}
    for plane in run.planes:
        (verdict,) = plane.verdicts
        assert decode_verdict(verdict).verdict.error == Error(TIMEOUT, None, "gave up")
    outcomes = run.all(agents, lambda agent: agent.sync(3, LIMIT))
    assert {o.view.number for o in outcomes} == {number + 2}, "it is whole again"


def test_members_that_report_nothing_wrong_go_on_in_the_next_view(run):
    agents = run.form(2)
    number = agents[0].view.number
    run.planes[0].emit(plane_events.Vetoed(number, "it was settled meanwhile"))
    for plane in run.planes:
        eventually(lambda plane=plane: plane.verdicts)
        assert decode_verdict(plane.verdicts[0]).verdict == Verdict()
    outcomes = run.all(agents, lambda agent: agent.sync(0, LIMIT))
    assert {o.view.number for o in outcomes} == {number + 1}


def test_who_does_not_hear_the_coordinator_is_reached_through_the_others(run):
    agents = run.form(3)
    run.planes[2].mute = True
    deaf = agents[2].state.config.id
    run.planes[0].veto(agents[0].view.number, 1)
    relayed = lambda: [c for c in run.planes[0].calls if c[0] == "relay"]  # noqa: E731
    eventually(relayed)
    _, peer, message, verdict = relayed()[0]
    assert (peer, verdict, len(message)) == (deaf, False, 32)
    data = encode_report(decode_epoch(message), deaf, Report())
    run.planes[0].emit(plane_events.Reported(data))
    for plane in run.planes:
        eventually(lambda plane=plane: plane.verdicts)
        assert deaf in decode_verdict(plane.verdicts[0]).members


def test_a_data_plane_that_gave_up_takes_its_peer_out_of_the_run(run):
    agents = run.form(2)
    number = agents[0].view.number
    run.planes[0].emit(plane_events.GivenUp(number, "nothing was decided; join again"))
    with pytest.raises(errors.CoordinatorUnreachable, match="nothing was decided; join again"):
        agents[0].sync(0, LIMIT)
    eventually(lambda: run.planes[1].verdicts)
    assert "'p0' aborted: nothing was decided" in run.reasons()


def test_a_sync_that_timed_out_names_the_absent_and_can_be_resumed(run):
    agents = run.form(3)
    with pytest.raises(errors.Timeout, match=r"waits for p\d, p\d to call sync\(\)"):
        # The first answer of the coordinator has to be there: it is, well within the time.
        agents[0].sync(0, 0.5)
    assert agents[0].sync_pending
    outcomes = run.all(agents, lambda agent: agent.sync(0, LIMIT))
    assert len({o.view for o in outcomes}) == 1
    assert not agents[0].sync_pending


def test_too_few_peers_are_told_how_many_they_lack(run):
    agents = run.form(2)
    agents[1].leave(LIMIT)
    with pytest.raises(errors.TooFewPeers, match="1 short of its min_size"):
        agents[0].sync(0, 0.5)
    future = run.pool.submit(run.agent("new").join, LIMIT)
    assert agents[0].sync(0, LIMIT).left == ("p1",)
    assert future.result(LIMIT).size == 2


def test_a_newcomer_that_cannot_connect_is_refused_and_the_others_go_on():
    with running(timing=QUICK) as run:
        agents = run.form(2)
        bad = run.agent("bad")
        for plane in run.planes[:2]:
            plane.unreachable["bad"] = "127.0.0.1:3: Connection timed out"
        future = run.joining(bad)
        outcomes = run.all(agents, lambda agent: agent.sync(0, LIMIT))
        assert {(o.joined, o.left, o.view.size) for o in outcomes} == {((), (), 2)}
        with pytest.raises(errors.Evicted, match="Connection timed out") as caught:
            future.result(LIMIT)
        assert "'bad' cannot reach each other" in str(caught.value)
        assert run.planes[0].calls[-1][0] == "discard"


def test_the_token_is_required_where_there_is_one():
    with running(token="secret") as run:
        assert run.agent("good").join(LIMIT).size == 1
        with pytest.raises(errors.NotAuthorized, match=r"'bad'.*wrong.*COLLECTIVES_TOKEN"):
            run.agent("bad", token="guess").join(LIMIT)
        with pytest.raises(errors.NotAuthorized, match="'none' has none"):
            run.agent("none", token=None).join(LIMIT)
        with pytest.raises(errors.NotAuthorized, match="wrong or missing"):
            query_status(run.coordinator.address, timeout=LIMIT)
        picture = query_status(run.coordinator.address, token="secret", timeout=LIMIT)
        assert picture["refused"]["wrong token"] == 2
        assert [p["name"] for p in picture["groups"][0]["peers"]] == ["good"]


def test_another_protocol_version_is_refused_by_both_names(run):
    newer = run.agent("newer", versions=(2, 3))
    with pytest.raises(errors.VersionSkew, match=r"versions 1 to 1, 'newer' speaks 2 to 3"):
        newer.join(LIMIT)
    assert run.refused("other protocol version") >= 1
    assert run.agent("good").join(LIMIT).size == 1


def test_an_address_where_nobody_listens_is_told_within_the_timeout(run):
    with socket.socket() as held:  # bound and not listening: refused, and nobody else's
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        agent = run.agent("lonely", address=address)
        began = time.monotonic()
        with pytest.raises(errors.CoordinatorUnreachable) as caught:
            agent.join(1.0)
        assert time.monotonic() - began < 1.5
        assert address in str(caught.value)
        assert "Connection refused" in str(caught.value) or "Connect call failed" in str(
            caught.value
        )
        assert "check the address" in str(caught.value)
        with pytest.raises(errors.CoordinatorUnreachable, match="check the address"):
            query_status(address, timeout=0.3)


def test_a_listener_that_is_no_coordinator_is_told_apart(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        agent = run.agent("lost", address=f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(errors.CoordinatorUnreachable, match="but it is no coordinator"):
            agent.join(1.0)


def test_a_coordinator_that_starts_late_is_found(run):
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        future = run.pool.submit(run.agent("early", address=address).join, LIMIT)
        with pytest.raises(TimeoutError):
            future.result(0.3)
    with Coordinator(address):
        assert future.result(LIMIT).size == 1
        run.agents[-1].close()


def test_a_member_outlives_its_coordinator_and_is_told_when_it_needs_it(run):
    agents = run.form(2)
    run.coordinator.close()
    for agent in agents:
        assert agent.state.phase is Phase.MEMBER
    with pytest.raises(errors.Timeout, match="waits for"):
        agents[0].sync(0, 0.2)
    eventually(lambda: time.monotonic() - agents[0].state.heard > 3.1)
    with pytest.raises(errors.CoordinatorUnreachable, match="has not answered for 3 s"):
        agents[0].sync(0, 0.2)
    lost = run.planes[0].verdicts + run.planes[0].ended
    assert not lost, "a silent coordinator is no reason to lose a peer"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_name_is_dialled_at_the_address_that_answers(run, host):
    port = run.coordinator.address.rpartition(":")[2]
    assert run.agent("named", address=f"{host}:{port}").join(LIMIT).size == 1


def test_bad_arguments_are_refused_before_anything_is_sent(run):
    for options, why in [
        ({"min_size": 0}, "min_size is 0"),
        ({"name": "x" * 64}, "name has 64 bytes"),
        ({"name": "a\nb"}, "control characters"),
        ({"group": ""}, "group is empty"),
        ({"address": "nowhere:port"}, "port is 'port'"),
    ]:
        with pytest.raises(errors.InvalidArgument, match=why):
            run.agent(**options)
    with pytest.raises(errors.InvalidArgument, match="before join"):
        run.agent().sync(0)


# ---- what strangers send to the control port ----------------------------------------------------


def dealer(address: str):
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.connect(f"tcp://{address}")
    return context, sock


def plain(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), LIMIT)


def test_garbage_messages_are_counted_and_the_run_is_unharmed(run):
    agents = run.form(2)
    context, sock = dealer(run.coordinator.address)
    alien = msgpack.packb({"p": [8, 9], "k": "hello", "b": {}})
    hello = codec.encode(messages.Hello(agents[0].state.config.id, "g", "x", (), 1))
    bad = [b"", b"GET / HTTP/1.1\r\n\r\n", hello[:-2], b"\xc1" * 1000, b"\x91" * 5000]
    with context, sock:
        for data in (*bad, alien):
            sock.send(data)
        sock.send_multipart([b"two", b"frames"])
        eventually(lambda: run.refused("undecodable message") == len(bad) + 1)
        assert run.refused("other protocol version") == 1
        # What only a coordinator says, and a member's words from a stranger, change nothing.
        sock.send(codec.encode(messages.Seal(1, 1, 1, b"\0" * 32)))
        sock.send(codec.encode(messages.Leave(1)))
        assert sock.poll(int(LIMIT * 1000))
    outcomes = run.all(agents, lambda agent: agent.sync(0, LIMIT))
    assert {o.view.size for o in outcomes} == {2}


def test_an_oversized_message_costs_its_sender_the_connection(run):
    agents = run.form(2)
    context, sock = dealer(run.coordinator.address)
    with context, sock:
        sock.send(b"x" * (wire.MAX_TO_COORDINATOR + 1))
        eventually(lambda: run.refused("connection without a valid message") == 1)
    run.all(agents, lambda agent: agent.sync(0, LIMIT))


def test_scanners_and_the_silent_are_dropped_and_counted(run):
    agents = run.form(2)
    probes = [
        b"",  # says nothing at all
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,  # a TLS client
        b"\xff\0\0\0\0\0\0\0\1\x7f\x03",  # half a ZMTP greeting
        b"\xff\0\0\0\0\0\0\0\1\x7f\x03\0NULL" + b"\0" * 48 + b"\x06" + b"\xff" * 8,
    ]
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(plain(run.coordinator.address)) for _ in probes]
        for sock, probe in zip(socks, probes, strict=True):
            sock.sendall(probe)
        for sock in socks:
            sock.settimeout(LIMIT)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass  # until the coordinator closes
    eventually(lambda: run.refused("failed handshake") >= 2)
    eventually(lambda: run.refused("connection without a valid message") == len(probes))
    run.all(agents, lambda agent: agent.sync(0, LIMIT))


# ---- Ctrl-C ---------------------------------------------------------------------------------

PROGRAM = """
import sys, time
sys.path.insert(0, {here!r})
from fakes import FakePlane
from collectives.membership.agent import Agent

agent = Agent({address!r}, name="victim", min_size={min_size}, plane=FakePlane())
try:
    if {call!r} == "sync":
        agent.join(30)
    print("ready", flush=True)
    agent.join(60) if {call!r} == "join" else agent.sync(0, 60)
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)
    agent.close()
    print("closed", time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("call", ["join", "sync"])
def test_ctrl_c_is_heard_within_200_ms(run, call):
    import signal

    here = str(Path(__file__).parent)
    size = 2 if call == "sync" else 9
    program = PROGRAM.format(here=here, address=run.coordinator.address, call=call, min_size=size)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        if call == "sync":
            run.agent("other", 2).join(30)
        assert child.stdout.readline() == "ready\n"
        group = lambda: run.coordinator.state.groups.get("default")  # noqa: E731
        if call == "sync":
            eventually(lambda: group().reached)
        else:
            eventually(lambda: group() and group().peers)
        sent = time.monotonic()  # one clock for all processes of a machine
        child.send_signal(signal.SIGINT)
        word, at = child.stdout.readline().split()
        assert word == "interrupted"
        assert float(at) - sent < 0.2
        word, at = child.stdout.readline().split()
        assert word == "closed"
        assert float(at) - sent < 1.0
        assert child.wait(LIMIT) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
