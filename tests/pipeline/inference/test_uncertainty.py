import json

import numpy as np
import pytest
import torch
from negative_model import Negative
from torch import nn

from networks.munit import AutoEncoder, StyleTranslator
from networks.unet import UNet
from pipeline.inference import uncertainty_calibration
from pipeline.inference.model import TranslationModel
from pipeline.inference.uncertainty import (
    Calibration,
    Features,
    UncertaintySources,
    dropouts,
    fused_error,
    uncertainty_features,
)
from pipeline.inference.uncertainty_calibration import uncertainty_sources
from pipeline.runs.folder import RunFolder
from transforms.slice_chain import PreprocessSettings


def send(network, slices):
    with torch.no_grad():
        images = torch.from_numpy(np.ascontiguousarray(slices))
        return network(images if images.ndim == 4 else images[:, None])[:, 0].numpy()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


class Ramp(nn.Module):
    """Adds what depends on where a pixel lies along one axis alone, so that mirrored slices come out differently."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, image):
        shape = [1] * 4
        shape[self.axis] = -1
        return image + torch.arange(image.shape[self.axis]).float().reshape(shape)


class Half(nn.Module):
    def forward(self, image):
        return image / 2


def test_the_cycle_error_is_what_the_way_back_cannot_restore():
    slices = np.full((2, 16, 16), 0.8, np.float32)
    features = uncertainty_features(slices, -slices, UncertaintySources(Negative(), Half()), send)
    np.testing.assert_allclose(features.cycle, 1.2, atol=1e-5)  # |-0.8 / 2 - 0.8|
    assert uncertainty_features(slices, -slices, UncertaintySources(Negative()), send).cycle is None


def test_slices_are_mirrored_left_to_right_and_back():
    slices = noise(1, 16, 16)
    middle = (slice(None), slice(6, 10), slice(6, 10))  # where neither shifts wrap round nor smoothing meets the edge

    def spread(network):
        return uncertainty_features(
            slices, send(network, slices), UncertaintySources(network, single_network=True), send
        ).spread

    along_rows, along_columns = spread(Ramp(2)), spread(Ramp(3))
    # versions of the ramp i over 16 rows: i, 15 - i (mirrored), i + 3 and i - 3 (shifted); columns are not mirrored
    for index in range(7, 9):
        assert along_rows[0, index, 8] == pytest.approx(np.std([index, 15 - index, index + 3, index - 3]), rel=0.1)
    np.testing.assert_allclose(along_columns[middle], np.std([0, 0, 3, -3]), rtol=0.02)


def test_dropout_joins_the_spread_with_a_fixed_seed_and_is_off_again():
    torch.manual_seed(0)
    network = UNet(depth=6, width=2, dropout=0.5).eval()
    slices = noise(2, 64, 64)
    translated = send(network, slices)
    state = torch.get_rng_state()
    first = uncertainty_features(slices, translated, UncertaintySources(network), send).spread
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first, uncertainty_features(slices, translated, UncertaintySources(network), send).spread)
    assert not np.array_equal(
        first, uncertainty_features(slices, translated, UncertaintySources(network, single_network=True), send).spread
    )
    assert dropouts(network) and not any(layer.training for layer in dropouts(network))
    assert "3 dropouts" in UncertaintySources(network).names


def test_styles_join_the_spread_and_the_models_own_is_set_again():
    torch.manual_seed(0)
    target = AutoEncoder(4, 1, 1, style_dim=2, style_downs=2, mlp_width=4)
    network = StyleTranslator(target.content_encoder, target).eval()
    network.set_style(torch.tensor([0.3, -0.2]))
    slices = noise(1, 16, 16)
    translated = send(network, slices)
    with_styles = uncertainty_features(slices, translated, UncertaintySources(network), send).spread
    assert not np.array_equal(
        with_styles,
        uncertainty_features(slices, translated, UncertaintySources(network, single_network=True), send).spread,
    )
    assert torch.equal(network.style, torch.tensor([[0.3, -0.2]]))
    assert UncertaintySources(network, Half()).names == ["cycle error", "flip", "2 shifts", "3 styles"]


def test_other_checkpoints_join_the_spread():
    slices = np.full((1, 16, 16), 0.4, np.float32)
    features = uncertainty_features(slices, -slices, UncertaintySources(Negative(), others={"previous": Half()}), send)
    np.testing.assert_allclose(features.spread, np.std([-0.4] * 4 + [0.2]), atol=1e-5)


def test_a_network_that_is_the_models_own_does_not_join_the_spread(tmp_path, monkeypatch):
    def model(t1, t2):
        networks = {"T1": nn.Conv2d(1, 1, 1), "T2": nn.Conv2d(1, 1, 1)}
        for network, value in zip(networks.values(), (t1, t2), strict=True):
            nn.init.constant_(network.weight, value)
            nn.init.zeros_(network.bias)
        settings = PreprocessSettings("axial", None, 16, False, None)
        return TranslationModel(("T1", "T2"), networks, settings, {}, 1, torch.device("cpu"))

    own, folder = model(0.1, 0.2), RunFolder(tmp_path)
    checkpoints = {folder.checkpoints.best: model(0.1, 0.2), folder.checkpoints.latest: model(0.3, 0.2)}
    folder.checkpoints.folder.mkdir()
    for path in checkpoints:
        path.touch()
    monkeypatch.setattr(uncertainty_calibration, "load_model", lambda path, device: checkpoints[path])
    others = uncertainty_calibration.other_checkpoints(folder, own)  # T2's best is its latest
    assert {name: list(other.translators) for name, other in others.items()} == {"latest": ["T1"]}
    assert list(uncertainty_sources(own, "T1", others).others) == ["latest"]
    assert list(uncertainty_sources(own, "T2", others).others) == []


def test_a_calibration_is_linear_between_its_entries_and_constant_beyond_them():
    by_sum = (0.1, 0.5)
    calibration = Calibration(1.0, 2.0, (0.0, 1.0), ((by_sum, by_sum), (by_sum, (1.1, 1.5))))
    black, white = np.full(3, -1.0), np.full(3, 1.5)
    features = Features(black, black, np.array([0.0, 0.1, 5.0]), np.array([0.0, 0.2, 1.0]))
    np.testing.assert_allclose(calibration.expected(features), [0.1, 0.3, 0.5], atol=1e-6)
    np.testing.assert_allclose(calibration.expected(features._replace(cycle=None)), [0.1, 0.26, 0.5], atol=1e-6)
    bright = features._replace(source=white, translated=white)
    np.testing.assert_allclose(calibration.expected(bright), [1.1, 1.3, 1.5], atol=1e-6)
    np.testing.assert_allclose(calibration.expected(bright._replace(translated=0 * white)), [0.6, 0.8, 1.0], atol=1e-6)


def test_a_volume_is_expected_what_its_voxels_are():
    values = np.random.default_rng(0).uniform(0, 1, (4, 3, 5, 6))
    calibration = Calibration(1.0, 2.0, (0.0, 1.0, 2.0), (((0.1, 0.2, 0.5), (0, 0, 0)), ((0, 1, 0), (1, 0, 2))))
    by_voxel = calibration.expected(Features(*values.reshape(4, -1)))
    np.testing.assert_allclose(calibration.expected(Features(*values)), by_voxel.reshape(3, 5, 6), atol=1e-6)


def test_a_calibration_comes_back_from_json_and_that_of_an_earlier_release_still_holds():
    calibration = Calibration(1.0, 2.0, (0.0, 1.0), (((0.1, 0.5),) * 2,) * 2, 3, 40)
    content = json.loads(json.dumps(calibration.to_json()))
    assert Calibration.from_json(content) == calibration
    earlier = {"cycle_weight": 1, "spread_weight": 2, "knots": [[0, 0.1], [1, 0.5]], "subjects": 3, "voxels": 40}
    assert Calibration.from_json(earlier) == calibration
    for damage in ({"sums": [0.0]}, {"errors": []}, {"errors": [[[0.1, float("nan")]]]}, {"errors": "none"}):
        with pytest.raises(ValueError):
            Calibration.from_json(content | damage)


def test_the_error_of_a_fusion_is_the_views_mean_but_no_less_than_their_disagreement():
    errors = [np.array([1.0, 1.0, 0.0]), np.array([3.0, 3.0, 0.0])]
    translated = [np.array([5.0, 0.0, 0.0]), np.array([5.0, 10.0, 10.0])]
    assert fused_error(errors, translated).tolist() == [2.0, 5.0, 0.0]  # the last lies outside the head
    assert fused_error(errors[:1], translated[:1]) is errors[0]
