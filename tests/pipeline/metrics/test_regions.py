import math

import numpy as np
import pytest

from pipeline.metrics.protocols import OWN, subject_means
from pipeline.metrics.regions import measure_regions
from pipeline.metrics.similarity import mae, psnr, ssim
from transforms.label_maps import UNCOUNTED, LabelMap


def images(shape=(14, 24, 24)):
    """A prediction, the real image, its head, and labels 3 and 7 with voxels outside of the head."""
    generator = np.random.default_rng(0)
    real = generator.uniform(-1, 1, shape).astype(np.float32)
    prediction = np.clip(real + 0.3 * generator.standard_normal(shape), -1, 1).astype(np.float32)
    foreground = np.zeros(shape, bool)
    foreground[1:-1, 2:-2, 2:-2] = True
    indices = np.zeros(shape, np.uint8)
    indices[:, :, :6], indices[:, :, 6:9] = 1, 2
    return prediction, real, foreground, LabelMap(indices, (3, 7))


def test_each_label_and_the_rest_of_the_head_have_the_figures_of_a_mask():
    prediction, real, foreground, labels = images()
    measured = subject_means(OWN.measure(prediction, real, foreground, (1, 1, 1), {"tissue": labels}))
    for label, index in (("outside", 0), ("3", 1), ("7", 2)):
        mask = foreground & (labels.indices == index)
        assert measured[f"volume/tissue/{label}/mae"] == pytest.approx(mae(prediction, real, mask))
        assert measured[f"volume/tissue/{label}/psnr"] == pytest.approx(psnr(prediction, real, 2, mask))
        assert measured[f"volume/tissue/{label}/ssim"] == pytest.approx(ssim(prediction, real, 2, mask), rel=1e-5)
    regions = {key for key in measured if key.startswith("volume/tissue/")}
    assert len(regions) == 9
    assert measured.keys() - regions == OWN.measure(prediction, real, foreground).keys()


def test_labels_of_few_voxels_in_the_head_and_uncounted_ones_are_left_out():
    prediction, real, foreground, labels = images()
    indices = np.full_like(labels.indices, UNCOUNTED)
    indices[5, 5, 3:13] = 1
    indices[5:10, 5:7, 3:8] = 2  # 50 voxels
    indices[0] = 1  # many, but none of the head
    measured = measure_regions(prediction, real, foreground, None, {"lesion": LabelMap(indices, (1, 2))})
    assert {key.split("/")[2] for key in measured} == {"2"}
    assert math.isnan(measured["volume/lesion/2/ssim"][0])


def test_what_is_exactly_right_has_an_infinite_psnr():
    _, real, foreground, labels = images()
    measured = measure_regions(real, real, foreground, np.ones_like(real), {"tissue": labels})
    assert measured["volume/tissue/3/psnr"] == np.inf and measured["volume/tissue/3/ssim"] == 1
