"""Steps that stay on the device: replayed operation by operation, they are those of an engine that asks the host."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
from recorder import Recorder, record
from small_engine import DEVICE_METHODS as METHODS
from small_engine import batch, config_of, differences, engine_of, saved
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.engines import cuda_graph as captured
from pipeline.engines.builders import build_engine
from pipeline.engines.cuda_graph import WARM_UP, CapturedStep
from pipeline.engines.state import RandomState
from pipeline.utils.errors import UserError

BAD = 4  # the step whose batch is not finite, after the recording
STEPS = 6


def images(index, size):
    real_a, real_b = batch(index, size=size)
    if index == BAD:
        real_b[1, 0, 3, 4] = torch.nan
    return real_a, real_b


def run(engine, step, steps=range(STEPS), *, pairs=False):
    """Make steps at falling rates, of a batch of pairs, too, if asked for; return every loss."""
    losses = []
    for index in steps:
        engine.set_learning_rate(1 - index / 20)
        size = max(16, engine.translators()["a"].stride)
        real = (*images(index, size), *(batch(50 + index, size=size) if pairs else ()))
        losses.append({name: loss.item() for name, loss in step(*real).items()})
    return losses


def make(method, **options):
    return engine_of(**METHODS[method] | {"ema_decay": 0.9} | options)


CASES = [*((method, "float32", False) for method in METHODS), ("munit", "bf16", False), ("cyclegan", "float32", True)]


@pytest.mark.parametrize(("method", "precision", "pairs"), CASES)
def test_replayed_steps_are_those_made_one_by_one_and_those_of_an_engine_that_asks_the_host(method, precision, pairs):
    asking, plain, captured = (make(method, precision=precision) for _ in range(3))
    plain.disable_host_sync()
    step = CapturedStep(captured, record)
    losses = []
    for engine, make_step in ((asking, asking.step), (plain, plain.step), (captured, step)):
        torch.manual_seed(1)
        losses.append(run(engine, make_step, pairs=pairs))
    assert repr(losses[2]) == repr(losses[1])  # to the bit; what is not a number has no equal
    assert len(step._recordings) == 1 and ("paired_G" in losses[2][-1]) == pairs
    assert differences(saved(plain), saved(captured)) == set()
    # The step that is not finite is left out by the device itself, and counts for nothing.
    changed = differences(saved(asking), saved(plain))
    assert not [key for key in changed if key.endswith(("made", "count", "averaged_steps", "generator"))]
    tolerance = 1e-3 if precision == "float32" else 0.05  # rates are float32 on the device
    for own, others in zip(losses[1], losses[0], strict=True):
        assert own == pytest.approx(others, rel=tolerance, abs=tolerance / 100, nan_ok=True)


class NothingFromElsewhere(TorchDispatchMode):
    """Refuses operations that bring a tensor from one device to another: a GPU would wait for such a copy."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returned = function(*args, **(kwargs or {}))
        devices = {
            tensor.device for tensor in tree_leaves((args, kwargs, returned)) if isinstance(tensor, torch.Tensor)
        }
        assert len(devices) <= 1 or function.overloadpacket.__name__ not in ("_to_copy", "copy_"), f"a copy: {devices}"
        return returned


@pytest.mark.parametrize(("method", "precision"), [*((method, "float32") for method in METHODS), ("cut", "bf16")])
def test_a_step_waits_for_no_device_and_mixes_none(method, precision, monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda optimiser: None)  # torch's own has no form for this device
    device = torch.device("meta")  # it can tell no numbers, and works on nothing that lies elsewhere
    engine = build_engine(config_of(**METHODS[method] | {"ema_decay": 0.9, "precision": precision}), device)
    engine.disable_host_sync()
    for draw in ("uniform", "normal", "choice", "integers"):  # which on CUDA are made there
        original = getattr(RandomState, draw)
        monkeypatch.setattr(
            RandomState,
            draw,
            lambda *arguments, original=original: torch.empty_like(original(*arguments), device=device),
        )
    real_a, real_b = (torch.zeros(2, 1, 64, 64, device=device) for _ in range(2))
    for _ in range(2):
        engine.set_learning_rate(0.5)
        with NothingFromElsewhere():
            losses = engine.step(real_a, real_b)
    assert {loss.device for loss in losses.values()} == {device}
    assert all(weight.grad.device == device for weight in engine.generators.parameters() if weight.grad is not None)


def test_the_recorder_notices_an_engine_that_asks():
    engine = make("cyclegan")
    with pytest.raises(AssertionError, match="asks the device"), Recorder():
        engine.step(*batch(0, size=64))


def test_each_shape_of_batch_has_a_recording_of_its_own():
    engine = engine_of(ema_decay=0.9)
    step = CapturedStep(engine, record)
    for index in range(2 * (WARM_UP + 2)):
        step(*batch(index, count=1 + index % 2))
    assert [recording.images[0].shape[0] for recording in step._recordings.values()] == [1, 2]


def test_a_resumed_engine_goes_on_with_captured_steps_in_the_same_bits():
    engine = make("cyclegan")
    step = CapturedStep(engine, record)
    torch.manual_seed(1)
    run(engine, step, range(4))
    middle, random = saved(engine), torch.get_rng_state()
    run(engine, step, range(4, STEPS))
    other = make("cyclegan", weights_seed=77, seed=5)
    resumed_step = CapturedStep(other, record)
    other.load_state_dict(middle)
    torch.set_rng_state(random)
    run(other, resumed_step, range(4, STEPS))
    assert differences(saved(engine), saved(other)) == set()


@pytest.mark.parametrize("options", [{"optimiser": "rmsprop"}, {"type": "dualgan", "critic_steps": 2}])
def test_what_must_ask_is_not_captured(options):
    with pytest.raises(ValueError, match="only Adam"):
        CapturedStep(engine_of(**options), record)


class FakeCuda:
    """Stands for what is asked of `torch.cuda`, and writes it down."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **options: (
            self.calls.append(name) or (nullcontext() if name in ("graph", "stream") else self)
        )


def test_a_cuda_graph_knows_the_engines_generators_before_it_records_and_is_what_replays(monkeypatch):
    cuda = FakeCuda()
    for name in ("CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    engine = make("cyclegan")
    losses, replay = captured._record_cuda_graph(
        lambda: cuda.calls.append("step") or {"cycle": 1}, engine.random_generators()
    )
    replay()
    assert losses == {"cycle": 1}
    assert cuda.calls == ["CUDAGraph", *["register_generator_state"] * 2, "graph", "step", "replay"]


def test_first_steps_on_cuda_run_beside_the_usual_stream_and_each_waits_for_the_other(monkeypatch):
    cuda = FakeCuda()
    for name in ("Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    step = CapturedStep(make("cyclegan"), record)
    for _ in range(2):
        step._on_side_stream(lambda: cuda.calls.append("step"), torch.device("cuda"))
    once = ["current_stream", "wait_stream", "stream", "step", "wait_stream"]
    assert cuda.calls == ["current_stream", "Stream", *once[1:], *once]


def test_a_step_that_cannot_be_recorded_says_why_and_what_to_do(monkeypatch):
    @contextmanager
    def recording(graph, **options):
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeCuda().CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)

    def step():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(UserError) as caught:
        captured._record_cuda_graph(step, [])
    assert str(caught.value) == (
        "training.cuda_graph = true: the step cannot be recorded (operation not permitted when stream is capturing); "
        "set it to false"
    )


# ── half precision that a scaler keeps from underflowing ────────────────────────────────────────────────────


@pytest.mark.parametrize("asks", [True, False])
def test_a_step_that_is_not_sound_teaches_the_loss_scaler_nothing(asks):
    engine = make("cyclegan", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    if not asks:
        engine.disable_host_sync()
    run(engine, engine.step, range(2))
    scale = engine.scaler.state_dict()
    assert scale["_growth_tracker"] == 2
    before = copy.deepcopy(engine.state_dict())
    run(engine, engine.step, [BAD])
    assert engine.scaler.state_dict() == scale
    assert {key for key in differences(before, engine.state_dict()) if "/random/" not in key} <= {
        f"/optimiser_{player}/param_groups/0/lr" for player in ("generators", "discriminators")
    }
    run(engine, engine.step, [BAD + 1])
    assert engine.scaler.state_dict()["_growth_tracker"] == 3


def test_a_state_of_an_optimiser_of_another_form_is_taken_over():
    engine, other = make("pix2pix"), make("pix2pix")
    run(engine, engine.step, range(2))
    state = saved(engine)
    for player in ("generators", "discriminators"):  # as saved on a device that has no fused form
        state[f"optimiser_{player}"]["param_groups"][0] |= {"fused": False, "capturable": True}
    other.load_state_dict(state)
    other.disable_host_sync()
    groups = [optimiser.param_groups[0] for optimiser in other.optimisers.values()]
    assert [(group["fused"], group["capturable"]) for group in groups] == [(True, False)] * 2
    engine.disable_host_sync()
    for stepped in (engine, other):
        run(stepped, stepped.step, [3])
    assert differences(saved(engine), saved(other)) == set()
