import signal

import numpy as np
import pytest
import torch
from small_slices import bank
from tqdm import tqdm

from pipeline.config.schema import Config
from pipeline.data.loader import UnpairedSlices
from pipeline.engines.builders import build_engine
from pipeline.runs.checkpoint import CheckpointFolder, random_state, restore_random_state
from pipeline.training.loop import Callbacks, train
from pipeline.training.schedule import Schedule, TrainerState
from pipeline.utils.errors import Stopped
from pipeline.utils.interruption import Interruption
from transforms.augmentation import Augmentation
from transforms.monai_augmentation import MonaiAugmentation

CONFIG = Config.model_validate(
    {
        "name": "tiny",
        "data": {"source": "phantom"},
        "preprocess": {"size": 64},
        "generator": {"width": 2, "dropout": 0.5},  # depth 6: the shallowest that has dropout
        "discriminator": {"width": 2, "layers": 1},
        "method": {"pool_size": 2, "ema_decay": 0.9},
    }
)
MONAI = MonaiAugmentation([{"RandGaussianNoised": {"prob": 0.5}}, {"RandAffined": {"prob": 0.5, "rotate_range": 0.2}}])
CHANGES = Augmentation(horizontal_flip=0.5, jitter=1.1, rotate90=0.3, brightness=0.1, contrast=0.1, extra=MONAI)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    banks = [bank(folder / f"{count}.npy", random.uniform(-1, 1, (count, 64, 64))) for count in (6, 4)]
    return lambda: UnpairedSlices(*banks, CHANGES, seed=3)


def sitting(images, folder, stop=None, precision="float32"):
    """Begin or continue the run whose checkpoints are in `folder`, until step `stop`; return the engine."""
    config = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"precision": precision})})
    checkpoints = CheckpointFolder(folder)
    saved = checkpoints.load_newest()
    torch.manual_seed(0 if saved is None else 1234)
    engine, interruption = build_engine(config, torch.device("cpu")), Interruption()
    position = TrainerState()
    if saved is not None:
        engine.load_state_dict(saved["engine"])
        position = TrainerState(**saved["position"])
        restore_random_state(saved["random"])

    def log(metrics, step):
        if step == stop:
            interruption.signal_number = signal.SIGTERM

    def save(position, best):
        checkpoints.save({"engine": engine.state_dict(), "position": position, "random": random_state()}, best=best)

    observers = Callbacks(
        log=log,
        validate=lambda: ({"validation/score": 0.0}, {}),
        sample=lambda *_: engine.translators()["b"](torch.zeros(1, 1, 64, 64)),
        save=save,
        bar=lambda done, total: tqdm(initial=done, total=total, disable=True),
    )
    schedule = Schedule(
        steps_per_epoch=3, constant_epochs=1, decay_epochs=1, batch_size=2, log_every=1,
        validate_every_epochs=1, sample_every_epochs=1, checkpoint_seconds=1e9, max_bad_steps=3,
    )  # fmt: skip
    train(engine, images(), schedule, position, observers, device=torch.device("cpu"), interruption=interruption)
    return engine


def tensors(state, name=""):
    """Return every leaf of a nested state by its path."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else None
    if items is None:
        return {name: state}
    return {path: leaf for key, value in items for path, leaf in tensors(value, f"{name}/{key}").items()}


def assert_bitwise_equal(first, second):
    first, second = tensors(first.state_dict()), tensors(second.state_dict())
    assert first.keys() == second.keys() and len(first) > 100
    different = [
        path
        for path, leaf in first.items()
        if not (torch.equal(leaf, second[path]) if isinstance(leaf, torch.Tensor) else leaf == second[path])
    ]
    assert different == []


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    engine = sitting(images, tmp_path_factory.mktemp("whole"))
    return engine, random_state()["cpu"]


def test_a_run_stopped_after_every_step_ends_bitwise_as_an_uninterrupted_one(images, uninterrupted, tmp_path):
    for stop in range(1, 6):
        with pytest.raises(Stopped):
            sitting(images, tmp_path, stop)
    engine, random = uninterrupted
    assert_bitwise_equal(sitting(images, tmp_path), engine)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_run_in_bf16_resumes_bitwise_too(images, tmp_path):
    whole = sitting(images, tmp_path / "whole", precision="bf16")
    with pytest.raises(Stopped):
        sitting(images, tmp_path / "parts", 4, precision="bf16")
    assert_bitwise_equal(sitting(images, tmp_path / "parts", precision="bf16"), whole)


def test_the_comparison_would_notice_what_a_checkpoint_forgets(images, uninterrupted, tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        sitting(images, tmp_path, 4)
    monkeypatch.setitem(globals(), "restore_random_state", lambda _: None)
    with pytest.raises(AssertionError):
        assert_bitwise_equal(sitting(images, tmp_path), uninterrupted[0])
