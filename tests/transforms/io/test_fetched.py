import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_volumes import write_volume

from transforms.io.fetched import not_fetched
from transforms.io.images import read_raster
from transforms.io.nifti import read_nifti

KEY = "SHA256E-s1048576--0a1b2c.nii.gz"
ANNEXED = "its content is not fetched \\(git-annex keeps it\\); run `datalad get "


def link(path, target=f"../.git/annex/objects/xX/7q/{KEY}/{KEY}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def annex_pointer(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"/annex/objects/{KEY}\n")


def lfs_pointer(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


WAYS = {
    "a link": (link, ANNEXED),
    "a pointer": (annex_pointer, ANNEXED),
    "git lfs": (lfs_pointer, "run `git lfs pull`"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["s.nii", "s.nii.gz", "s.hdr", "s.png"])
def test_a_volume_or_picture_that_is_elsewhere_is_named_with_the_command(tmp_path, way, name):
    make, message = WAYS[way]
    make(tmp_path / "a b" / name)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a b/{name}: .*{message}"):
        (read_raster if name == "s.png" else read_nifti)(tmp_path / "a b" / name)


def test_the_voxels_of_a_pair_may_be_elsewhere_alone(tmp_path):
    import nibabel as nib

    nib.save(nib.Nifti1Pair(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "s.hdr")
    (tmp_path / "s.img").unlink()
    link(tmp_path / "s.img")
    with pytest.raises(ValueError, match=rf"s\.img: {ANNEXED}"):
        read_nifti(tmp_path / "s.hdr")


def test_what_is_here_is_here(tmp_path):
    stored = write_volume(tmp_path / ".git" / "annex" / "objects" / KEY)
    (tmp_path / "s.nii.gz").symlink_to(stored)
    Image.new("L", (2, 2)).save(tmp_path / "small.png")
    (tmp_path / "empty.nii").touch()
    os.mkfifo(tmp_path / "pipe.nii")  # is not read, which would wait for ever
    link(tmp_path / "lost.nii", "nowhere.nii")  # a link of nobody's
    for name in ("s.nii.gz", "small.png", "empty.nii", "pipe.nii", "lost.nii", "absent.nii", "."):
        assert not_fetched(tmp_path / name) is None, name
    assert not_fetched(Path("n" * 300)) is None
