import numpy as np
from PIL import Image

from pipeline.training.callbacks import save_sample


def test_a_sample_is_saved_under_its_direction_and_epoch(tmp_path):
    panel = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = save_sample(tmp_path, "T1_to_T2", 7, panel)
    assert path == tmp_path / "T1_to_T2" / "epoch-00007.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), panel)
