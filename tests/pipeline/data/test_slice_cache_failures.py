import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from full_disk import fill
from small_pairs import SETTINGS as PAIR_SETTINGS
from small_pairs import build as build_pairs
from small_store import SETTINGS, build, make_cases
from small_volumes import write_volume

from pipeline.data import slice_cache
from pipeline.data.case import Case
from pipeline.data.slice_cache import extract
from pipeline.utils.errors import DiskFull, UserError


def shorten(path):
    path.write_bytes(path.read_bytes()[:-100])


def spoiled_cohort(tmp_path):
    cases = make_cases(tmp_path, 2)
    shorten(cases[1].path)
    return cases, cases[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_volume_is_named_once_and_left_out(processes, tmp_path, capsys):
    cases, bad = spoiled_cohort(tmp_path)
    stored, failures = build(cases, tmp_path / "store", processes=processes)
    assert [entry.case for entry in stored] == [case for case in cases if case != bad]
    assert list(failures) == [bad] and "truncated" in failures[bad]
    [line] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert line.startswith(f"warning: {bad.path}: truncated") and line.endswith("; left out")


def test_a_dangling_link_is_a_bad_volume(tmp_path, capsys):
    cases = make_cases(tmp_path, 1)
    cases[0].path.unlink()
    cases[0].path.symlink_to(tmp_path / "annexed" / "nowhere")
    stored, failures = build(cases, tmp_path / "store")
    assert [entry.case for entry in stored] == cases[1:] and list(failures) == cases[:1]
    assert "No such file" in failures[cases[0]] and str(cases[0].path) in capsys.readouterr().err


@pytest.mark.parametrize("as_pair", [False, True])
def test_what_is_doubtful_about_a_volume_is_one_line(as_pair, tmp_path, capfd):
    cases = make_cases(tmp_path, 1)
    for case in cases:
        image = nib.load(case.path)
        data = image.get_fdata(dtype=np.float32)
        data[0, 0, 0] = np.nan
        nib.save(nib.Nifti1Image(data, image.affine), case.path)
    if as_pair:
        build_pairs([tuple(cases)], tmp_path, settings=replace(PAIR_SETTINGS, register=False))
    else:
        build(cases, tmp_path / "store")
    lines = sorted(capfd.readouterr().err.splitlines())
    assert len(lines) == len(cases) and not any(".py" in line for line in lines)
    assert all(line.startswith(f"warning: {case.path}: ") for line, case in zip(lines, cases, strict=True))


def test_too_little_foreground_says_which_setting_to_change(tmp_path):
    cases = make_cases(tmp_path, 1)
    with pytest.raises(UserError) as caught:
        build(cases, tmp_path / "store", on_bad_volume="stop", min_foreground=0.99)
    assert "no slice has 99% of foreground; lower preprocess.min_foreground" in str(caught.value)


def test_nothing_usable_is_an_error(tmp_path, capsys):
    cases = make_cases(tmp_path, 1)
    for case in cases:
        case.path.write_bytes(b"not a volume")
    with pytest.raises(UserError, match="none of 2 images could be used; the reasons are above"):
        build(cases, tmp_path / "store")
    assert capsys.readouterr().err.count("warning") == 2


@pytest.mark.parametrize(("suffix", "room"), [(".npy", 0), (".npy", 700), (".npy", 2000), (".json", 0), (".json", 90)])
def test_a_disk_that_fills_within_an_entry_leaves_the_entries_before_and_the_rest_is_made_later(
    suffix, room, tmp_path, monkeypatch
):
    cases = make_cases(tmp_path, 2)
    [original], _ = build(cases[:1], tmp_path / "store")
    content = original.path.read_bytes()
    with monkeypatch.context() as patch:
        fill(patch, room, suffix)
        with pytest.raises(DiskFull) as caught:
            build(cases, tmp_path / "store")
    match = re.fullmatch(r"(.*): disk full, [\d.]+ \w+ left; free some space and run again", str(caught.value))
    assert Path(match[1]).parent == tmp_path / "store" and match[1].endswith(suffix)
    assert not list((tmp_path / "store").glob(".tmp-*"))
    assert slice_cache.look_up(cases[0], tmp_path / "store", *SETTINGS) == original
    assert original.path.read_bytes() == content
    assert slice_cache.look_up(cases[1], tmp_path / "store", *SETTINGS) is None
    stored, failures = build(cases, tmp_path / "store")
    assert [entry.case for entry in stored] == cases and failures == {}


def test_an_image_replaced_while_it_is_read_is_not_served(tmp_path, monkeypatch, capsys):
    good, bad = (Case(name, "", "T1", write_volume(tmp_path / f"{name}.nii.gz")) for name in "ab")

    def replaced_meanwhile(path, *arguments):
        extract(path, *arguments)
        if path == bad.path:
            write_volume(path, seed=5, shape=(22, 22, 12))

    monkeypatch.setattr(slice_cache, "extract", replaced_meanwhile)
    stored, failures = build([good, bad], tmp_path / "store")
    assert [entry.case for entry in stored] == [good]
    assert failures == {bad: "changed while it was being read; run again"}
    assert f"warning: {bad.path}: changed while it was being read" in capsys.readouterr().err
