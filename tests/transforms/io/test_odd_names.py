import os

import numpy as np
import pytest
import SimpleITK as sitk

from transforms.io.images import read_raster
from transforms.io.odd_names import utf8_name

ODD = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("name", ["plain.png", "café.png", f"{ODD}.png", f"x.{ODD}"])
def test_the_file_is_found_under_a_name_in_utf8(tmp_path, name):
    (tmp_path / name).write_text("content")
    with utf8_name(tmp_path / name) as utf8_path:
        utf8_path.encode()
        with open(utf8_path) as stream:  # noqa: PTH123
            assert stream.read() == "content"
        assert (utf8_path == str(tmp_path / name)) == (ODD not in name)
    assert os.path.lexists(utf8_path) == (ODD not in name)


def test_deep_colour_is_read_from_any_folder(tmp_path):
    rows = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(rows, isVector=True), str(tmp_path / "a.png"))
    (tmp_path / ODD).mkdir()
    (tmp_path / "a.png").rename(tmp_path / ODD / f"{ODD}.png")
    (slice_, largest), grey = read_raster(tmp_path / ODD / f"{ODD}.png"), rows @ [0.299, 0.587, 0.114]
    assert largest == 65535 and np.allclose(slice_[..., 0], grey[::-1].T)
