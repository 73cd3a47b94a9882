"""Where there is a CUDA device: every method's step there, as it is and as a CUDA graph."""

import pytest
import torch
from small_engine import DEVICE_METHODS as METHODS
from small_engine import batch, config_of, saved

from pipeline.engines.builders import build_engine
from pipeline.engines.cuda_graph import WARM_UP, CapturedStep

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
PRECISIONS = ("float32", "bf16", "fp16")
CASES = [
    (method, precision)
    for method in METHODS
    for precision in PRECISIONS
    if (method, precision) != ("dualgan-penalty", "fp16")  # refused by the configuration
]
STEPS = 2 * WARM_UP


def engine_of(method, precision, weights_seed=0):
    torch.manual_seed(weights_seed)
    return build_engine(config_of(**METHODS[method] | {"ema_decay": 0.9, "precision": precision}), CUDA)


def run(engine, step, steps):
    """Make steps, the fifth of them on images that are no numbers; return their losses."""
    losses = []
    for index in steps:
        engine.set_learning_rate(1 - index / 20)
        real_a, real_b = (images.to(CUDA) for images in batch(index, size=64))
        step_losses = step(real_a * (torch.nan if index == 4 else 1), real_b)
        losses.append({name: loss.item() for name, loss in step_losses.items()})
    return losses


def assert_near(losses, expected, tolerance):
    for step_losses, expected_losses in zip(losses, expected, strict=True):
        assert step_losses == pytest.approx(expected_losses, rel=tolerance, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize(("method", "precision"), CASES)
def test_a_cuda_graph_makes_the_steps_that_are_made_one_by_one(method, precision):
    plain, captured = (engine_of(method, precision) for _ in range(2))
    torch.cuda.manual_seed(1)
    expected = run(plain, plain.step, range(STEPS))
    torch.cuda.manual_seed(1)
    assert_near(run(captured, CapturedStep(captured), range(STEPS)), expected, 1e-3 if precision == "float32" else 0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_between_looks_waits_for_nothing(method):
    engine = engine_of(method, "float32")
    images = [[image.to(CUDA) for image in batch(index, size=64)] for index in range(3)]
    for real in images:
        engine.step(*real)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.set_learning_rate(0.5)
        engine.step(*images[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("method", "precision"), CASES)
def test_a_resumed_run_goes_on_with_captured_steps(method, precision):
    engine = engine_of(method, precision)
    step = CapturedStep(engine)
    run(engine, step, range(STEPS))
    middle = saved(engine)
    torch.cuda.manual_seed(2)
    expected = run(engine, step, range(STEPS, 2 * STEPS))
    other = engine_of(method, precision, weights_seed=7)
    other.load_state_dict(middle)
    torch.cuda.manual_seed(2)
    losses = run(other, CapturedStep(other), range(STEPS, 2 * STEPS))
    assert_near(losses, expected, 1e-3 if precision == "float32" else 0.05)


@pytest.mark.parametrize("method", METHODS)
def test_the_gpus_losses_are_the_cpus(method):
    cpu_engine = build_engine(config_of(**METHODS[method]), torch.device("cpu"))
    cuda_engine = build_engine(config_of(**METHODS[method]), CUDA)
    for name, network in cuda_engine.networks().items():
        network.load_state_dict(cpu_engine.networks()[name].state_dict())
    is_random = method not in ("dualgan-clip", "pix2pix")  # what is drawn on the device is another
    real = batch(0, size=64)
    expected = {name: loss.item() for name, loss in cpu_engine.step(*real).items()}
    losses = {name: loss.item() for name, loss in cuda_engine.step(*(images.to(CUDA) for images in real)).items()}
    assert losses.keys() == expected.keys()
    assert is_random or losses == pytest.approx(expected, rel=1e-2, abs=1e-3)
