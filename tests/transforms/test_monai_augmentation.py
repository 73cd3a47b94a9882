from pathlib import Path

import numpy as np
import pytest
import torch

from transforms.augmentation import Augmentation, AugmentationParameters
from transforms.monai_augmentation import TRANSFORMS, MonaiAugmentation, problems

ARGUMENTS = {  # of transforms that need some, or that change nothing by default
    "RandAffined": {"rotate_range": 0.2, "translate_range": [3, 3], "padding_mode": "border"},
    "RandCoarseDropoutd": {"holes": 2, "spatial_size": 4},
    "RandCoarseShuffled": {"holes": 2, "spatial_size": 4},
    "RandRotated": {"range_x": 0.4},
    "RandScaleIntensityFixedMeand": {"factors": 0.3},
    "RandScaleIntensityd": {"factors": 0.3},
    "RandShiftIntensityd": {"offsets": 0.2},
    "RandSimulateLowResolutiond": {"upsample_mode": "bilinear", "zoom_range": [0.3, 0.6]},
    "RandStdShiftIntensityd": {"factors": 0.5},
    "Rand2DElasticd": {"spacing": [8, 8], "magnitude_range": [1, 2]},
}
SIZE = 32


def slices(count=1):
    values = np.random.default_rng(0).uniform(-1, 1, (count, 1, SIZE, SIZE)).astype(np.float32)
    values[:, :, :8] = -1  # air
    return torch.from_numpy(values)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_keeps_shape_and_range_and_is_a_function_of_its_seed(name):
    specification = [{name: {"prob": 0.6, **ARGUMENTS.get(name, {})}}]
    assert list(problems(specification, SIZE)) == []
    augmentation, [image] = MonaiAugmentation(specification), slices()
    before = image.clone()
    results = [augmentation(image, seed) for seed in (3, 4, 3, 5, 6, 7, 8, 9)]
    assert torch.equal(results[0], results[2]) and torch.equal(image, before)
    assert any(not torch.equal(results[0], other) for other in results)
    for result in results:
        assert type(result) is torch.Tensor and result.shape == image.shape and result.dtype == torch.float32
        assert float(result.min()) >= -1 and float(result.max()) <= 1


def test_air_stays_air_where_intensities_are_multiplied():
    [image] = slices()
    for name, arguments in (("RandBiasFieldd", {}), ("RandScaleIntensityd", {"factors": 0.5})):
        result = MonaiAugmentation([{name: {"prob": 1.0, **arguments}}])(image, 1)
        assert torch.equal(result[:, :8], image[:, :8])


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        (
            [{"RandGausianNoised": {}}],
            "augment.monai[0] = RandGausianNoised: must be one of MONAI's .*; the nearest is RandGaussianNoised",
        ),
        ([{"RandFlipd": None}, {"Resized": {}}], "augment.monai[1] = Resized: must be one of MONAI's random"),
        (
            [{"RandFlipd": {"probability": 1}}],
            "augment.monai[0].RandFlipd.probability: unknown argument; the nearest is prob",
        ),
        ([{"RandFlipd": {"keys": "image"}}], "augment.monai[0].RandFlipd.keys: unknown argument"),
        ([{"RandFlipd": {"prob": 2}}], "RandFlipd = {'prob': 2}: prob must be a number from 0 to 1"),
        ([{"RandCoarseDropoutd": {}}], "RandCoarseDropoutd = {}: .*missing 2 required"),
        ([{"RandGaussianSmoothd": {"sigma_x": "wide"}}], "RandGaussianSmoothd = {'sigma_x': 'wide'}: "),
        ([{"RandRotated": {"range_x": 0.5, "keep_size": False}}], "RandRotated.keep_size: unknown argument"),
        ([{"RandFlipd": {"prob": 0.5, "spatial_axis": 7}}], "RandFlipd = .*imension"),  # torch's reason, not MONAI's
        ([{"RandFlipd": {}, "RandZoomd": {}}], "augment.monai[0] names RandFlipd, RandZoomd: must be one transform"),
    ],
)
def test_wrong_names_arguments_and_values_are_named(specification, message):
    [line] = problems(specification, SIZE)
    assert "\n" not in line
    first, _, second = message.partition(".*")
    assert first in line and second in line


def test_values_are_tried_on_as_many_channels_as_training_has():
    specification = [{"RandKSpaceSpikeNoised": {"prob": 1.0, "intensity_range": [[10, 11]]}}]
    assert list(problems(specification, SIZE)) == []
    for more in ({"neighbours": 1}, {"lookup_in_volume": True}):
        [line] = problems(specification, SIZE, **more)
        assert "channel" in line


def test_it_comes_after_the_other_changes_and_is_drawn_with_them():
    extra = MonaiAugmentation(
        [{"RandGaussianNoised": {"prob": 1.0}}, {"RandAffined": {"prob": 0.5, "rotate_range": 0.3}}]
    )
    plain, both = Augmentation(rotate90=1.0, contrast=0.2), Augmentation(rotate90=1.0, contrast=0.2, extra=extra)
    changes = [both.draw(np.random.default_rng([0, index])) for index in range(3)]
    assert len({change.extra_seed for change in changes}) == 3
    without = [plain.draw(np.random.default_rng([0, index])) for index in range(3)]
    assert without == [AugmentationParameters(**{**vars(change), "extra_seed": 0}) for change in changes]
    before = plain.apply(slices(3), without)
    expected = torch.stack([extra(image, change.extra_seed) for image, change in zip(before, changes, strict=True)])
    assert torch.equal(both.apply(slices(3), changes), expected)
    flipped = torch.stack([image[:, :: c.flips[0], :: c.flips[1]] for image, c in zip(slices(3), changes, strict=True)])
    assert torch.equal(both.apply_to_flipped(flipped, changes), expected)


def test_the_documentation_names_every_transform():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "augmentation.md").read_text(encoding="utf-8")
    assert {name for name in TRANSFORMS if f"`{name}`" not in page} == set()
