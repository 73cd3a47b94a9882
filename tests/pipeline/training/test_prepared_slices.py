from dataclasses import replace

import numpy as np
import pytest
import torch
from head_scans import AFFINE, scan, write_scan
from small_validation import COHORTS
from torch import nn

import pipeline.data.pairs as pairing
from pipeline.data.case import Case
from pipeline.data.pairs import PairReader
from pipeline.data.slice_cache import CacheOptions
from pipeline.training.prepared_slices import prepared_slices
from pipeline.training.validation import Validation
from pipeline.utils.errors import DiskFull
from transforms.slice_chain import PreprocessSettings

CONTRASTS = ("T1", "T2")
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))
HISTOGRAMS = {contrast: [1.0] * 256 for contrast in CONTRASTS}


@pytest.fixture
def cohort(tmp_path):
    """Two subjects' pairs on different grids, whose headers are right."""
    return [
        Case(subject, "", contrast, write_scan(tmp_path / f"{subject}-{contrast}.nii.gz", voxels(contrast, number)))
        for number, subject in enumerate("ab")
        for contrast in CONTRASTS
    ]


def voxels(contrast, seed):
    return scan(contrast, shape={"T1": (36, 44, 34), "T2": (34, 42, 35)}[contrast], affine=AFFINE, seed=seed)


def validation(cases, folder, *, processes=1, settings=SETTINGS, scored_in_pairs=True, slices=9):
    return Validation(
        cases,
        CONTRASTS,
        scored_in_pairs=scored_in_pairs,
        reader=PairReader(settings, 4, register=False, registrations=folder / "registrations"),
        slices=slices,
        histograms=HISTOGRAMS,
        device=torch.device("cpu"),
        cohorts=COHORTS,
        cache=CacheOptions(folder / "store", processes, quiet=True),
    )


def assert_equal(first, second):
    for target in CONTRASTS:
        for first_slices, other in zip(first.by_target[target], second.by_target[target], strict=True):
            assert (first_slices.label, first_slices.field_of_view, first_slices.pixel_mm) == (
                other.label,
                other.field_of_view,
                other.pixel_mm,
            )
            for name in ("source", "foreground", "head", "real"):
                arrays = getattr(first_slices, name), getattr(other, name)
                assert np.array_equal(*arrays) and (arrays[0] is None or arrays[0].dtype == arrays[1].dtype)
    same = {contrast: nn.Identity() for contrast in CONTRASTS}
    assert first.scores(same) == second.scores(same)


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read in this process."""
    names, prepare = [], pairing.prepare_scan
    monkeypatch.setattr(
        pairing, "prepare_scan", lambda path, *arguments: names.append(path.name) or prepare(path, *arguments)
    )
    return names


@pytest.mark.parametrize(("processes", "scored_in_pairs"), [(1, True), (2, False)])
def test_the_slices_are_the_same_from_workers_and_from_the_store(cohort, tmp_path, read, processes, scored_in_pairs):
    plain = validation(cohort, tmp_path / "plain", scored_in_pairs=scored_in_pairs)
    assert len(read) == 4
    options = {"processes": processes, "scored_in_pairs": scored_in_pairs}
    assert_equal(validation(cohort, tmp_path / "kept", **options), plain)
    before = len(read)
    assert before == (8 if processes == 1 else 4)  # workers read in processes of their own
    assert_equal(validation(cohort, tmp_path / "kept", **options), plain)
    assert len(read) == before


def test_what_changed_is_read_again_and_nothing_else(cohort, tmp_path, read):
    validation(cohort, tmp_path)
    read.clear()
    write_scan(cohort[2].path, voxels("T1", 7))
    changed = validation(cohort, tmp_path)
    assert read == ["b-T1.nii.gz", "b-T2.nii.gz"]
    assert_equal(changed, validation(cohort, tmp_path / "fresh"))
    read.clear()
    for other in ({"settings": replace(SETTINGS, percentiles=(1.0, 99.0))}, {"slices": 3}):
        validation(cohort, tmp_path, **other)
        assert len(read) == 4
        read.clear()


@pytest.mark.parametrize("harm", [lambda content: content[:-40], lambda content: flipped(content)])
def test_a_damaged_entry_is_made_again(cohort, tmp_path, read, harm):
    expected = validation(cohort, tmp_path)
    file = sorted((tmp_path / "store").glob("*-validation.npz"))[0]
    file.write_bytes(harm(file.read_bytes()))
    read.clear()
    assert_equal(validation(cohort, tmp_path), expected)
    assert len(read) == 2
    read.clear()
    validation(cohort, tmp_path)
    assert read == []


def flipped(content):
    """A file with one bit of its largest array changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_pair_that_cannot_be_read_is_named_at_each_start_and_kept_nowhere(cohort, tmp_path, capsys):
    cohort[3].path.write_bytes(b"nothing of the kind")
    for _ in range(2):
        prepared = validation(cohort, tmp_path)
        assert [fixed.label for fixed in prepared.by_target["T2"]] == ["a"]
        (message,) = capsys.readouterr().err.splitlines()
        assert (
            message.startswith("warning: ")
            and "b-T2.nii.gz" in message
            and message.endswith("; left out of the validation")
        )
    assert len(list((tmp_path / "store").glob("*.npz"))) == 1


def test_a_full_disk_is_not_taken_for_a_bad_scan(cohort, tmp_path):
    def full(scan):
        raise DiskFull("no room")

    with pytest.raises(DiskFull):
        list(prepared_slices(cohort[:1], full, {}, CacheOptions(tmp_path / "store", 1, quiet=True)))
