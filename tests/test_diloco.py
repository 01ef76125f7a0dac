"""DiLoCo: the arithmetic, what is shared of a module, and rounds among real processes."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import collectives
from collectives.diloco import DiLoCo
from collectives.diloco.outer import outer_step
from collectives.diloco.state import OuterState

SEED = 20240
DEADLINE = 120.0


# ---- the outer optimizer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "beta"),
    [(0.5, 0.5), (1.0, 0.25), (0.7, 0.9), (0.7, 0.0)],
)
def test_the_outer_step_is_sgd_with_nesterov_momentum_on_the_pseudo_gradient(lr, beta):
    generator = torch.Generator().manual_seed(SEED)
    theta = torch.randn(100_003, generator=generator)  # several chunks and a rest
    momentum = torch.zeros_like(theta)
    reference = nn.Parameter(theta.clone())
    sgd = torch.optim.SGD([reference], lr=lr, momentum=beta, nesterov=beta > 0)
    for _ in range(5):
        delta = torch.randn(len(theta), generator=generator)
        kept = delta.clone()
        outer_step(theta, momentum, delta, lr=lr, beta=beta)
        assert torch.equal(delta, kept)
        reference.grad = kept
        sgd.step()
        if beta in (0.0, 0.25, 0.5) and lr in (0.5, 1.0):
            # Scaling by powers of two is exact, so both round in the same places.
            assert torch.equal(theta, reference)
        # torch multiplies and adds in one rounding where the processor can, outer_step never:
        # each of five steps may differ by a few units in the last place of values below 10.
        assert torch.allclose(theta, reference, rtol=0, atol=1e-5)


def test_the_outer_step_without_nesterov_is_plain_momentum():
    theta, momentum = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0])
    outer_step(theta, momentum, torch.tensor([1.0, 1.0]), lr=0.5, beta=0.5, nesterov=False)
    assert torch.equal(momentum, torch.tensor([3.0, 1.0]))
    assert torch.equal(theta, torch.tensor([-0.5, 1.5]))


# ---- what is shared of a module -----------------------------------------------------------


class Motley(nn.Module):
    """A bit of everything: tied, frozen, bf16 and f64 parameters, all kinds of buffers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.low = nn.Parameter(torch.randn(5).to(torch.bfloat16))
        self.high = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.tensor([[0.0, -torch.inf]]).repeat(2, 1))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("scratch", torch.randn(6), persistent=False)

    def forward(self, x):
        x = self.norm(self.frozen(self.tied(torch.tanh(self.first(x)))))
        return x.sum(1) * self.low.float().sum() * self.high.float().sum()


def train_a_step(module, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 4, generator=generator)
    optimizer.zero_grad()
    (module(x) - x.prod(1)).square().mean().backward()
    optimizer.step()


def fingerprint(module):
    """Of everything in the module's state, to the bit."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def test_tied_parameters_count_once_and_frozen_ones_are_not_averaged():
    torch.manual_seed(SEED)
    state = OuterState(Motley())
    f32, f64 = state.blocks
    trained = 16 + 5 + 4 + 4  # first (tied), low, norm's weight and bias
    assert len(f32.momentum) == trained
    assert len(f32.theta) == trained + 4 + 4 + 4  # and running mean, variance, mask
    assert len(f64.momentum) == 3
    assert len(state.copied) == 3 + 8  # flags, num_batches_tracked


def test_a_bf16_parameter_that_did_not_move_has_no_pseudo_gradient():
    module = nn.Linear(64, 64).to(torch.bfloat16)
    state = OuterState(module)
    for block in state.blocks:
        block.theta += 1e-4  # an outer value that bf16 cannot hold
    state.copy_to_module()
    state.compute_delta()
    assert all(torch.count_nonzero(block.delta) == 0 for block in state.blocks)


def test_small_outer_steps_of_a_bf16_module_add_up():
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(module.weight)
    state = OuterState(module)
    for _ in range(100):
        state.blocks[0].delta.fill_(1e-4)  # a hundredth of what bf16 resolves near 1
        state.apply(copied=state.copied, lr=1.0, beta=0.0, nesterov=True)
        state.copy_to_module()
    assert module.weight.item() == pytest.approx(0.99, abs=0.004)  # bf16 spacing below 1: 0.0039


def test_constant_buffers_stay_as_they_are_even_when_infinite():
    module = Motley()
    state = OuterState(module)
    state.compute_delta()
    state.apply(copied=state.pack_copied(), lr=0.7, beta=0.9, nesterov=True)
    before = fingerprint(module)
    state.copy_to_module()
    assert fingerprint(module) == before
    assert torch.isinf(module.mask).sum() == 2


@pytest.mark.parametrize("part", ["theta", "momentum", "copied", "round"])
def test_the_digest_changes_with_every_part_of_the_outer_state(part):
    state = OuterState(Motley())
    digests = [state.digest(1)]
    if part == "round":
        digests.append(state.digest(2))
    else:
        flats = [state.copied] if part == "copied" else [getattr(b, part) for b in state.blocks]
        for flat in flats:
            # Every bit of the first and of the last element.
            for place in (0, flat.nbytes - flat.itemsize):
                for bit in range(8 * flat.itemsize):
                    flat.view(torch.uint8)[place + bit // 8] ^= 1 << bit % 8
                    digests.append(state.digest(1))
                    flat.view(torch.uint8)[place + bit // 8] ^= 1 << bit % 8
    assert len(set(digests)) == len(digests)
    assert state.digest(1) == digests[0]


# ---- one peer alone: everything that needs no second one ------------------------------------


@pytest.fixture
def alone():
    with (
        collectives.Coordinator("127.0.0.1:0") as coordinator,
        collectives.join(coordinator.address, min_size=1, timeout=DEADLINE) as group,
    ):
        yield group


def made(group, module=None, **settings):
    module = module if module is not None else nn.Linear(3, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return module, optimizer, DiLoCo(module, optimizer, group, **settings)


def test_a_round_comes_every_inner_steps_calls(alone):
    torch.manual_seed(SEED)
    module, optimizer, diloco = made(alone, Motley(), inner_steps=3, outer_lr=1.0, outer_momentum=0)
    ended = []
    for step in range(7):
        train_a_step(module, optimizer, step)
        before = fingerprint(module)
        ended.append(diloco.step())
        if ended[-1]:
            # η = 1 and β = 0 with one peer: Θ − (Θ − θ), which is θ up to the rounding of
            # two subtractions; nothing else may change.
            assert ended[-1].digest == diloco.digest()
        else:
            assert fingerprint(module) == before
    assert [record.number if record else 0 for record in ended] == [0, 0, 1, 0, 0, 2, 0]
    assert diloco.round == 2
    assert diloco.inner_step == 1
    assert diloco.last_round is ended[5]
    assert ended[5].size == 1
    assert ended[5].view == alone.view.number


def test_a_round_that_raises_leaves_everything_as_it_was_and_can_be_redone(alone, monkeypatch):
    torch.manual_seed(SEED)
    module, optimizer, diloco = made(alone, Motley(), inner_steps=2)
    train_a_step(module, optimizer, 0)
    diloco.step()
    train_a_step(module, optimizer, 1)
    outer, inner = diloco.digest(), fingerprint(module)
    real = alone.broadcast

    def lost(*_args, **_kwargs):
        raise collectives.PeerLost("lab-2 is gone", peer="lab-2")

    # The last operation of the round fails: all reductions have succeeded by then.
    monkeypatch.setattr(alone, "broadcast", lost)
    with pytest.raises(collectives.PeerLost):
        diloco.step()
    assert (diloco.digest(), fingerprint(module), diloco.round) == (outer, inner, 0)
    monkeypatch.setattr(alone, "broadcast", real)
    record = diloco.recover()
    assert record is not None
    assert record.number == 1
    assert diloco.digest() != outer
    assert diloco.recover() is None  # nothing is pending any more


def test_a_saved_state_goes_on_with_the_same_bits(alone, tmp_path):
    torch.manual_seed(SEED)
    module, optimizer, diloco = made(alone, Motley(), inner_steps=2)
    for step in range(5):
        train_a_step(module, optimizer, step)
        diloco.step()
    path = tmp_path / "checkpoint.pt"
    torch.save([diloco.state_dict(), module.state_dict()], path)
    copied, optimizer_2, resumed = made(alone, Motley(), inner_steps=2)
    states = torch.load(path, weights_only=True)
    resumed.load_state_dict(states[0])
    copied.load_state_dict(states[1])
    for name in ("scratch",):
        getattr(copied, name).copy_(getattr(module, name))
    assert resumed.digest() == diloco.digest()
    for step in range(5, 8):
        train_a_step(module, optimizer, step)
        train_a_step(copied, optimizer_2, step)
        assert (diloco.step() is None) == (resumed.step() is None)
    assert resumed.digest() == diloco.digest()
    assert fingerprint(copied) == fingerprint(module)


def test_a_state_of_another_model_is_refused_and_changes_nothing(alone):
    _, _, diloco = made(alone)
    _, _, other = made(alone, nn.Linear(4, 1))
    before = diloco.digest()
    with pytest.raises(collectives.InvalidArgument, match="shape"):
        diloco.load_state_dict(other.state_dict())
    with pytest.raises(collectives.InvalidArgument, match="missing"):
        diloco.load_state_dict({"round": 3})
    assert diloco.digest() == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"outer_lr": -0.1}, "outer_lr is -0.1"),
        ({"outer_lr": float("nan")}, "outer_lr is nan"),
        ({"outer_momentum": 1.0}, "outer_momentum is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(alone, settings, told):
    with pytest.raises(collectives.InvalidArgument, match=told):
        made(alone, **settings)


def test_models_that_cannot_be_trained_are_refused_by_name(alone):
    frozen = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(frozen.parameters(), lr=0.1)
    frozen.requires_grad_(False)
    with pytest.raises(collectives.InvalidArgument, match="requires_grad=True"):
        DiLoCo(frozen, optimizer, alone)
    strange = nn.Module()
    strange.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(collectives.UnsupportedError, match=r"'phase' is torch\.complex64"):
        made(alone, strange)
    with pytest.raises(collectives.InvalidArgument, match="none of the module's"):
        DiLoCo(nn.Linear(2, 2), torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), alone)


def test_a_parameter_that_changes_its_role_under_way_is_refused_by_name(alone):
    module, _, diloco = made(alone, inner_steps=1)
    module.bias.requires_grad_(False)
    with pytest.raises(collectives.InvalidArgument, match="'bias'"):
        diloco.step()
    module.bias.requires_grad_(True)
    module.weight = nn.Parameter(torch.zeros(1, 3))
    with pytest.raises(collectives.InvalidArgument, match="'weight'"):
        diloco.step()


# ---- peers as processes --------------------------------------------------------------------
#
# A Crew keeps its processes between tests, because importing torch takes seconds. Each process
# runs the scenario it is sent and sends back what the scenario returns.


def _serve(pipe):
    torch.set_num_threads(1)
    while True:
        try:
            scenario, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, scenario(*arguments)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))


class Crew:
    def __init__(self):
        self._context = multiprocessing.get_context("spawn")
        self._members = []

    def hire(self, size):
        alive = [member for member in self._members if member[0].is_alive()]
        while len(alive) < size:
            here, there = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            alive.append((process, here))
        self._members = alive

    def start(self, size, scenario, *arguments):
        """Have peer i run ``scenario(i, *arguments)``."""
        self.hire(size)
        for index, (_, pipe) in enumerate(self._members[:size]):
            pipe.send((scenario, (index, *arguments)))

    def answer(self, index):
        process, pipe = self._members[index]
        deadline = time.monotonic() + DEADLINE
        while not pipe.poll(0.2):
            assert process.is_alive(), f"peer {index} died with {process.exitcode}"
            assert time.monotonic() < deadline, f"peer {index} gave no answer"
        good, value = pipe.recv()
        assert good, f"peer {index}: {value}"
        return value

    def run(self, size, scenario, *arguments):
        self.start(size, scenario, *arguments)
        return [self.answer(index) for index in range(size)]

    def wait_for_death(self, index):
        self._members[index][0].join(DEADLINE)
        assert self._members[index][0].exitcode == -signal.SIGKILL

    def dismiss(self):
        for process, pipe in self._members:
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.kill()


@pytest.fixture(scope="module")
def crew():
    crew = Crew()
    yield crew
    crew.dismiss()


@pytest.fixture
def address():
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        yield coordinator.address


def joined(address, index, size, **more):
    return collectives.join(address, name=f"peer-{index}", min_size=size, timeout=DEADLINE, **more)


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def move_by_hand(index, address):
    """Two rounds in which rank r moves every parameter by −(r + 1)."""
    with joined(address, index, 2) as group:
        module = nn.Linear(3, 1, bias=False)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        nn.init.zeros_(module.weight)
        diloco = DiLoCo(module, optimizer, group, inner_steps=1, outer_lr=0.5, outer_momentum=0.5)
        outer = []
        for _ in range(2):
            with torch.no_grad():
                module.weight -= group.rank + 1
            diloco.step()
            outer.append(module.weight.flatten().tolist())
        return outer


def test_two_rounds_worked_out_by_hand(crew, address):
    # Δ = (1 + 2)/2 = 1.5.  v = 1.5:  Θ = 0 − ½(1.5 + ½·1.5) = −1.125
    # v = ½·1.5 + 1.5 = 2.25:  Θ = −1.125 − ½(1.5 + ½·2.25) = −2.4375; all exact in binary.
    for outer in crew.run(2, move_by_hand, address):
        assert outer == [[-1.125] * 3, [-2.4375] * 3]


def train_motley(index, address, size, seed, rounds):
    """Train on data of one's own; returns what was seen after each round."""
    with joined(address, index, size) as group:
        torch.manual_seed(seed * 100 + group.rank)  # other initial values on each peer
        module = Motley()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        diloco = DiLoCo(module, optimizer, group, inner_steps=3, outer_momentum=0.5)
        seen = []
        drifted = set()
        while diloco.round < rounds:
            step = diloco.round * 3 + diloco.inner_step
            train_a_step(module, optimizer, seed * 10_000 + group.rank * 1000 + step)
            drifted.add(fingerprint(module))
            done = diloco.step()
            if done:
                seen.append((done.number, done.size, done.digest, fingerprint(module)))
                assert done.wire_bytes > 0
        return group.rank, seen, drifted, module.scratch.tolist()


def test_states_are_bit_identical_after_every_round_although_peers_see_different_data(
    crew, address
):
    answers = crew.run(3, train_motley, address, 3, SEED, 4)
    _, seen, _, _ = answers[0]
    assert [entry[:2] for entry in seen] == [(1, 3), (2, 3), (3, 3), (4, 3)]
    assert len({entry[2] for entry in seen}) == 4
    for other in answers[1:]:
        assert other[1] == seen
    # Between rounds the peers were never alike: each went where its own data led.
    states = [answer[2] for answer in answers]
    assert all(not states[i] & states[j] for i in range(3) for j in range(i))
    # What state_dict leaves out is nobody else's business.
    assert len({tuple(answer[3]) for answer in answers}) == 3


def test_the_same_seed_gives_the_same_digests(crew):
    digests = []
    for seed in (SEED, SEED, SEED + 1):
        with collectives.Coordinator("127.0.0.1:0") as coordinator:
            answers = crew.run(2, train_motley, coordinator.address, 2, seed, 2)
        digests.append([entry[2] for entry in answers[0][1]])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]


def train_to_fit(index, address, outer_lr, same_data):
    """Fit y = Wx, of which each peer sees other inputs; returns (before, after, data seen)."""
    with joined(address, index, 2) as group:
        torch.manual_seed(SEED)
        module = nn.Linear(8, 1, bias=False)
        target = torch.randn(8)
        held_out = torch.randn(256, 8)
        # Peer r sees only half of the inputs' coordinates: alone it cannot learn the other half.
        half = 0 if same_data else group.rank
        visible = torch.zeros(8)
        visible[4 * half : 4 * half + 4] = 1
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-2, weight_decay=0.0)
        diloco = DiLoCo(
            module, optimizer, group, inner_steps=10, outer_lr=outer_lr, outer_momentum=0.5
        )

        def loss_of(x):
            return (module(x)[:, 0] - x @ target).square().mean()

        generator = torch.Generator().manual_seed(SEED + half)
        data = hashlib.sha256()
        before = loss_of(held_out).item()
        while diloco.round < 20:
            x = torch.randn(32, 8, generator=generator) * visible
            data.update(x.numpy().tobytes())
            optimizer.zero_grad()
            loss_of(x).backward()
            optimizer.step()
            diloco.step()
        return before, loss_of(held_out).item(), data.hexdigest()


def check_quality(answers):
    """What DiLoCo must achieve in ``train_to_fit``; the mutants below must not pass it."""
    assert len({data for _, _, data in answers}) >= 2, "all peers trained on the same data"
    for before, after, _ in answers:
        assert after < 0.05 * before, f"loss {before} fell to {after} only"


def test_peers_learn_together_what_none_could_learn_alone(crew, address):
    check_quality(crew.run(2, train_to_fit, address, 0.7, False))


@pytest.mark.parametrize(
    ("outer_lr", "same_data"), [(0.0, False), (0.7, True)], ids=["frozen outer", "same data"]
)
def test_the_quality_check_notices_mutants(crew, address, outer_lr, same_data):
    answers = crew.run(2, train_to_fit, address, outer_lr, same_data)
    with pytest.raises(AssertionError):
        check_quality(answers)


def train_with_newcomer(index, address, begun):
    """Peers 0 and 1 begin; 2 joins under way and stays for three rounds."""
    wait_until(lambda: index < 2 or begun.exists())
    with joined(address, index, 2) as group:
        torch.manual_seed(index)
        module = Motley()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        diloco = DiLoCo(module, optimizer, group, inner_steps=2)
        begun.touch()
        came_in = diloco.round
        after_share = (diloco.digest(), fingerprint(module))
        seen = {}
        deadline = time.monotonic() + DEADLINE
        while group.size < 3 or diloco.round < came_in + 3:
            assert time.monotonic() < deadline
            train_a_step(module, optimizer, 1000 * index + diloco.round)
            done = diloco.step()
            if done:
                seen[done.number] = (done.size, done.digest, fingerprint(module))
                if group.size == 3 and came_in == 0:
                    came_in = diloco.round
        return group.rank, came_in, after_share, seen


def test_a_newcomer_gets_the_outer_state_and_trains_on_as_an_equal(crew, address, tmp_path):
    answers = crew.run(3, train_with_newcomer, address, tmp_path / "begun")
    first = answers[0]
    came_in = answers[2][1]
    assert answers[2][0] == 2
    assert came_in >= 1
    # It came in with the state that the members had after that round, momentum included.
    assert answers[2][2] == first[3][came_in][1:]
    assert [first[3][number][0] for number in range(came_in + 1, came_in + 4)] == [3, 3, 3]
    for answer in answers[1:]:
        for number in range(came_in + 1, came_in + 4):
            assert answer[3][number] == first[3][number]
    assert answers[1][3] == first[3]


def train_with_a_death(index, address):
    """Peer 2 is killed in the middle of round 2; the others go on to round 4."""
    with joined(address, index, 2) as group:
        while group.size < 3:
            group.sync()
        torch.manual_seed(index)
        module = Motley()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        diloco = DiLoCo(module, optimizer, group, inner_steps=2)
        digests, lost = [], []
        while diloco.round < 4:
            train_a_step(module, optimizer, 1000 * index + diloco.round)
            if index == 2 and diloco.round == 1 and diloco.inner_step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            before = (diloco.digest(), fingerprint(module), diloco.round)
            try:
                done = diloco.step()
            except collectives.PeerLost as error:
                unchanged = (diloco.digest(), fingerprint(module), diloco.round) == before
                lost.append((error.peer, unchanged))
                done = diloco.recover()
            if done:
                digests.append((done.number, done.size, done.digest, fingerprint(module)))
        return digests, lost


def test_a_lost_peer_costs_the_others_no_round(crew, address):
    crew.start(3, train_with_a_death, address)
    crew.wait_for_death(2)
    (digests, lost), (others, also_lost) = crew.answer(0), crew.answer(1)
    assert lost == also_lost == [], "the round was finished without the dead"
    assert digests == others
    assert [entry[:2] for entry in digests] == [(1, 3), (2, 2), (3, 2), (4, 2)]


def make_unequal(index, address, what):
    with joined(address, index, 2) as group:
        module = nn.Linear(3 + (index if what == "model" else 0), 1)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        steps = 5 + (index if what == "settings" else 0)
        try:
            DiLoCo(module, optimizer, group, inner_steps=steps)
        except collectives.InvalidArgument as error:
            return str(error)
        return ""


@pytest.mark.parametrize("what", ["model", "settings"])
def test_peers_with_different_models_or_settings_are_all_told(crew, address, what):
    told = crew.run(2, make_unequal, address, what)
    assert all(f"the peers' {what}" in text for text in told), told
    assert "'peer-0'" in told[0]
    assert "'peer-1'" in told[1]


def share_after_load(index, address):
    """One peer loads a checkpoint; sharing gives it to the other."""
    with joined(address, index, 2) as group:
        torch.manual_seed(index)
        _, _, diloco = made(group, inner_steps=1)
        if index == 1:
            state = copy.deepcopy(diloco.state_dict())
            state["round"] = 7
            state["momentum"]["weight"].fill_(0.25)
            diloco.load_state_dict(state)
        diloco.share()
        return diloco.round, diloco.digest()


def test_a_checkpoint_loaded_on_one_peer_reaches_the_others(crew, address):
    answers = crew.run(2, share_after_load, address)
    assert answers[0] == answers[1]
    assert answers[0][0] == 7


# ---- without torch --------------------------------------------------------------------------


def test_the_library_imports_without_torch_and_diloco_says_what_to_install():
    script = """
import sys
sys.modules["torch"] = None
import collectives
import collectives.diloco
try:
    from collectives.diloco import DiLoCo
except collectives.UnsupportedError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert "pip install 'collectives[torch]'" in run.stdout


def test_importing_diloco_does_not_import_torch():
    script = "import sys, collectives.diloco; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert run.stdout.strip() == "False"
    with contextlib.suppress(AttributeError):
        collectives.diloco.nothing_of_that_name  # noqa: B018
        pytest.fail("an unknown name was found")
