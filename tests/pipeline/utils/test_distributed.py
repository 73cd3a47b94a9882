import os

import pytest
import torch
from processes import together
from small_engine import MUNIT, UNIT, batch, differences, engine_of, saved

from pipeline.data.loader import epoch_keys
from pipeline.utils.distributed import SINGLE_PROCESS, ProcessLost, World, init_distributed, world_from_env
from pipeline.utils.errors import UserError
from pipeline.utils.hardware import choose_device

METHODS = {  # by method, those of its variants that draw, remember or take turns
    "cyclegan": {"type": "cyclegan", "pool_size": 3},
    "dualgan": {"type": "dualgan", "adversarial": "wasserstein", "gradient_penalty": 10.0, "critic_steps": 2},
    "munit": {**MUNIT, "cycle_weight": 10.0, "ema_decay": 0.9},
    "unit": UNIT,
    "cut": {"type": "cut", "patches": 20, "head_width": 8},
    "pix2pix": {"type": "pix2pix"},
    "cyclegan-slices": {"type": "cyclegan", "discriminator_slices": 6, "r1_weight": 1.0, "r1_every": 2},
    "dualgan-slices": {"type": "dualgan", "discriminator_slices": 7, "r1_weight": 1.0, "r1_every": 1},
}
COUNT, STEPS = 4, 3  # samples of a whole batch


def trained(method, world):
    """What a method has after some steps: by step its losses and gradients, and its state in the end."""
    engine = engine_of(**METHODS[method], dtype=torch.float64)
    engine.world = world
    seen = []
    for index in range(STEPS):
        losses = engine.step(*(world.local_shard(images) for images in batch(index, COUNT, dtype=torch.float64)))
        weights = {
            f"{name}.{at}": item for name, net in engine.networks().items() for at, item in net.named_parameters()
        }
        gradients = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
        seen.append((losses, gradients))
    return {"steps": seen, "state": saved(engine)}


def one_bad_batch(world):
    """Whether a NaN that only the last process sees leaves every process's engine as it was."""
    engine = engine_of(**METHODS["cyclegan"])
    engine.world = world
    engine.step(*(world.local_shard(images) for images in batch(0, COUNT)))
    before, (real_a, real_b) = saved(engine), batch(1, COUNT)
    real_a[-1, 0, 0, 0] = float("nan")
    losses = engine.step(world.local_shard(real_a), world.local_shard(real_b))
    changed = [place for place in differences(before, saved(engine)) if not place.endswith("/random/generator")]
    return {"changed": changed, "finite": bool(torch.isfinite(losses["adversarial_G"]))}


def one_overflow(world):
    """What a loss scaler makes of a gradient that overflowed in the last process alone."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((weight * (float("inf") if world.rank == world.size - 1 else 1.0)).sum()).backward()
    world.mean_gradients([weight])()
    scaler.step(optimiser)
    scaler.update()
    return {"weight": weight.detach(), "scale": scaler.get_scale()}


def small_exchanges(world):
    weight = torch.nn.Parameter(torch.zeros(4))  # without a gradient
    world.mean_gradients([weight])()
    world.seed(7, 3)
    return {
        "has_gradient": weight.grad is not None,
        "ints": world.all_gather_int(2**50 + world.rank),
        "drawn": torch.rand(2),
    }


@pytest.fixture(scope="module")
def alone():
    """What one process has that is shown whole batches."""
    return {method: trained(method, SINGLE_PROCESS) for method in METHODS}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, alone):  # which has imported by then what they need
    """What each of two processes has of all that is asked of them here."""

    def work(rank):
        with init_distributed() as world:
            assert world == World(rank, 2, rank, 2)
            return {
                "methods": {method: trained(method, world) for method in METHODS},
                "bad": one_bad_batch(world),
                "overflow": one_overflow(world),
                "small": small_exchanges(world),
            }

    (code, first), (other_code, second) = together(work, tmp_path_factory.mktemp("pair"))
    assert (code, other_code) == (0, 0)
    return first, second


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_make_the_losses_and_gradients_of_one(method, alone, pair):
    steps = zip(alone[method]["steps"], pair[0]["methods"][method]["steps"], strict=True)
    for index, ((losses, gradients), (shared, averaged)) in enumerate(steps):
        torch.testing.assert_close(shared, losses, rtol=0, atol=1e-6, msg=lambda text, at=index: f"step {at}: {text}")
        assert gradients.keys() == averaged.keys() and (index == 0 or len(gradients) > 10)
        torch.testing.assert_close(averaged, gradients, rtol=0, atol=1e-6, msg=lambda text, at=index: f"{at}: {text}")


@pytest.mark.parametrize("method", METHODS)
def test_every_process_holds_the_same_state_to_the_bit(method, pair):
    first, second = (item["methods"][method]["state"] for item in pair)
    assert differences(first, second) == set()


def test_mean_styles_are_those_of_the_whole_batch(alone, pair):
    whole, shared = (item["munit"]["state"]["style_A"]["mean"] for item in (alone, pair[1]["methods"]))
    assert whole.abs().sum() > 0
    torch.testing.assert_close(whole, shared, rtol=0, atol=1e-6)


def test_a_loss_that_is_not_finite_in_one_process_changes_nothing_in_any(pair):
    assert [item["bad"] for item in pair] == [{"changed": [], "finite": False}] * 2


def test_a_gradient_that_overflows_in_one_process_holds_all_back(pair):
    for item in pair:
        assert item["overflow"]["weight"].tolist() == [1, 1, 1]
        assert item["overflow"]["scale"] == 4


def test_small_exchanges(pair):
    first, second = (item["small"] for item in pair)
    assert not (first["has_gradient"] or second["has_gradient"])
    assert first["ints"] == second["ints"] == [2**50, 2**50 + 1]
    assert not torch.equal(first["drawn"], second["drawn"])  # each has a random stream of its own, for dropout


def test_together_they_read_what_one_process_reads_in_the_same_order():
    alone = list(epoch_keys(epoch=2, batches=3, batch_size=4, first_batch=1))
    shares = [list(epoch_keys(2, 3, 4, 1, World(rank, 2).local_slots(4))) for rank in range(2)]
    assert [first + second for first, second in zip(*shares, strict=True)] == alone
    assert len(alone) == 2 and all(len(keys) == 2 for keys in shares[0])


def test_a_process_that_loses_another_says_so(tmp_path):
    def work(rank):
        with init_distributed() as world:
            world.all_gather_int(0)
            if rank == 1:
                os._exit(9)
            with pytest.raises(ProcessLost, match="another process of this run ended"):
                world.all_gather_int(0)
        return 0

    assert [code for code, _ in together(work, tmp_path)] == [0, 9]


def test_one_process_alone_exchanges_nothing():
    value = torch.ones(2, requires_grad=True)
    assert SINGLE_PROCESS.all_gather(value) is value and SINGLE_PROCESS.local_shard(value) is value
    means = SINGLE_PROCESS.reduce_mean(value), SINGLE_PROCESS.all_reduce_mean({"loss": value})["loss"]
    assert not any(mean.requires_grad for mean in means)
    assert (SINGLE_PROCESS.all_gather_int(5), SINGLE_PROCESS.local_slots(3)) == ([5], range(3))
    assert SINGLE_PROCESS.main_process_first(lambda: 4) == 4 and SINGLE_PROCESS.is_main
    random = torch.get_rng_state()
    SINGLE_PROCESS.seed(0, 0)
    assert torch.equal(torch.get_rng_state(), random)
    with init_distributed() as world:
        assert world is SINGLE_PROCESS and not torch.distributed.is_initialized()


def test_torchruns_environment_is_read(monkeypatch):
    assert world_from_env() is SINGLE_PROCESS
    for name, value in (("RANK", 5), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 4)):
        monkeypatch.setenv(name, str(value))
    assert world_from_env() == World(5, 8, 1, 4)
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(UserError, match=r"RANK=8, WORLD_SIZE=8, .*: no place among processes; start them with"):
        world_from_env()


def test_a_batch_that_cannot_be_divided_is_refused_once():
    assert [list(World(rank, 3).local_slots(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match=r"batch_size = 4: cannot be divided among 3 processes; .* set a multiple of 3"):
        World(0, 3).local_slots(4)
    with pytest.raises(SystemExit) as silent:
        World(1, 3).local_slots(4)
    assert silent.value.code == 2


def test_processes_take_a_gpu_each_and_too_few_are_refused(monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    for name, value in (("RANK", 3), ("WORLD_SIZE", 4), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert devices == [1, 1] and choose_device("cpu") == torch.device("cpu")
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 4)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="4 processes on this machine and 2 CUDA devices"):
        choose_device("auto")
