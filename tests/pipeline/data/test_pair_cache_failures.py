import os
from dataclasses import replace

import numpy as np
import pytest
from full_disk import fill
from head_scans import AFFINE, scan
from PIL import Image
from small_pairs import SETTINGS, build, pair, slices_of

from pipeline.data.case import Case
from pipeline.data.pair_cache import look_up_pair
from pipeline.utils.errors import DiskFull, UserError


def test_a_pair_without_a_common_slice_is_left_out_with_the_reason(tmp_path, capsys):
    affine = AFFINE.copy()
    affine[:3, 3] = AFFINE[:3, :3] @ [0, 22, 0] + AFFINE[:3, 3]
    half_a_head, distant_affine = pair(tmp_path, scan("T2", seed=1)[:, 22:], affine, "half"), np.diag([1.0, 1, 1, 1])
    distant_affine[:3, 3] = 1000
    distant_pair = pair(tmp_path, affine=distant_affine @ AFFINE, subject="far")
    good = pair(tmp_path, subject="good")
    settings = replace(SETTINGS, register=False)
    stored, failures = build([half_a_head, distant_pair, good], tmp_path, settings=settings)
    assert [entry.first.case.subject for entry in stored] == ["good"] and list(failures) == [half_a_head, distant_pair]
    first_line, two = capsys.readouterr().err.splitlines()
    names = [" and ".join(str(case.path) for case in cases) for cases in (half_a_head, distant_pair)]
    assert first_line == (
        f"warning: {names[0]}: no slice shows the head whole in both scans, with 10% of foreground; lower "
        "preprocess.min_foreground, or check that both cover the head; left out"
    )
    assert two == f"warning: {names[1]}: the heads do not overlap; check their affines; left out"


def test_a_bad_half_is_named_once_and_the_pair_left_out(tmp_path, capsys):
    good, bad = pair(tmp_path), pair(tmp_path, subject="bad")
    os.truncate(bad[1].path, 1000)
    stored, failures = build([bad, good], tmp_path)
    assert [entry.cases for entry in stored] == [good] and list(failures) == [bad]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {bad[1].path}: ") and line.endswith("; left out")
    assert line.count(str(bad[1].path)) == 1 and str(bad[0].path) not in line
    with pytest.raises(UserError) as caught:
        build([bad, good], tmp_path, on_bad_volume="stop")
    assert str(caught.value).startswith(f"{bad[1].path}: ")
    assert str(caught.value).endswith("(preprocess.on_bad_volume: skip would go on without it)")
    with pytest.raises(UserError, match="none of 1 pairs could be used; the reasons are above"):
        build([bad], tmp_path)


def test_a_disk_that_fills_within_a_pair_leaves_nothing_of_it_and_it_is_made_later(tmp_path, monkeypatch):
    cases = pair(tmp_path)
    with monkeypatch.context() as patch:
        fill(patch, 3000, ".npy")
        with pytest.raises(DiskFull, match=r"-first\.npy: disk full, [\d.]+ \w+ left; free some space and run again"):
            build([cases], tmp_path)
    assert look_up_pair(cases, tmp_path / "store", SETTINGS) is None
    assert list((tmp_path / "store").glob(".tmp-*")) == []
    stored, failures = build([cases], tmp_path)
    assert len(stored) == 1 and failures == {}


def picture(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = scan(path.parent.name)[:, :, 17].T
    Image.fromarray(np.clip(voxels / 4, 0, 255).astype(np.uint8)).resize(size).save(path)
    return path


def test_pictures_are_paired_as_they_are_and_must_have_one_size(tmp_path, capsys):
    sizes = {"a": [(36, 44), (36, 44)], "b": [(36, 44), (36, 40)]}
    pairs = [
        tuple(Case(name, "", kind, picture(tmp_path / kind / f"{name}.png", size)) for kind, size in two)
        for name, two in ((name, zip(("T1", "T2"), pair_sizes, strict=True)) for name, pair_sizes in sizes.items())
    ]
    stored, failures = build(
        pairs, tmp_path, settings=replace(SETTINGS, preprocess=replace(SETTINGS.preprocess, percentiles=None))
    )
    assert [entry.first.count for entry in stored] == [1] and list(failures) == [pairs[1]]
    for case, slices in zip(stored[0].cases, slices_of(stored[0]), strict=True):
        pixels = np.asarray(Image.open(case.path)).astype(float)
        assert np.isclose(np.sort(slices.ravel())[-50:], np.sort(pixels.ravel() / 127.5 - 1)[-50:], atol=1e-4).all()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {pairs[1][0].path} and {pairs[1][1].path}: a single slice cannot be registered")
    assert line.endswith("give slices of one size and position; left out")
