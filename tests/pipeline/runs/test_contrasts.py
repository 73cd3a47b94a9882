"""The range of the head that a run trains on, from the configuration to the slices."""

import json

import numpy as np
import pytest
from tall_and_short import SHORT, SLICE_MM, TALL, write_cohort, write_head

from pipeline.config.schema import Config
from pipeline.data.coverage import Coverage
from pipeline.data.loader import SliceBank
from pipeline.data.stored_slices import BINS, slice_histograms
from pipeline.data_builders import find_cases, prepare_data
from pipeline.runs.contrasts import choose_coverage, coverage_json
from pipeline.runs.folder import json_text
from pipeline.runs.prepare import training_data
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text
from transforms.slice_chain import PreprocessSettings, slice_chain

MARGIN = 3  # slices of 4 mm before the head's first: volumes are cut 10 mm beyond the head


@pytest.fixture
def folder(tmp_path):
    write_cohort(tmp_path / "data")
    return tmp_path


def config(folder, coverage="shared", **preprocess):
    patterns = {contrast: f"{{subject}}_{contrast}.nii.gz" for contrast in ("T1", "T2")}
    values = {"size": 32, "store": folder / "store", "processes": 1, "coverage_mm": coverage} | preprocess
    data = {"source": "nifti", "folder": folder / "data", "patterns": patterns}
    split = {"validation": 1, "test": 1}
    return Config.model_validate({"name": "x", "data": data, "split": split, "preprocess": values})


def paired_settings(settings):
    """The same settings for a method that learns from pairs, whose headers are trusted."""
    changes = {"split": {"pairing": "paired"}, "evaluation": {"register_pairs": False}}
    changes = {name: getattr(settings, name).model_copy(update=values) for name, values in changes.items()}
    return settings.model_copy(update=changes)


def prepared(settings, **options):
    return prepare_data(settings, find_cases(settings), quiet=True, **options)


def counts(its):
    return {contrast: [entry.count for entry in entries] for contrast, entries in its.stored.items()}


def test_by_default_each_volume_is_trained_on_whole_and_the_difference_is_said(folder, capsys):
    whole = prepared(config(folder, "all"))
    assert counts(whole) == {"T1": [TALL] * 3, "T2": [SHORT] * 3}
    assert Config.model_fields["preprocess"].default.coverage_mm == "all"
    assert capsys.readouterr().err == (
        "warning: along the axial slices' axis scans show 80 mm in T1 and 48 mm in T2 of head (medians); networks "
        "would take what one contrast never shows for a matter of contrast; preprocess.coverage_mm: shared would "
        "train on the 48 mm below the crown\n"
    )
    assert whole.statistics["T1"].fingerprint.coverage_mm is None


@pytest.mark.parametrize("paired", [False, True])
def test_what_a_lookup_makes_of_different_ranges_is_in_the_same_line(folder, capsys, paired):
    settings = config(folder, "all")
    generator = settings.generator.model_copy(update={"start": "lookup"})
    settings = settings.model_copy(update={"generator": generator})
    settings = paired_settings(settings) if paired else settings
    prepared(settings, paired=paired)
    [line] = [text for text in capsys.readouterr().err.splitlines() if "of head" in text]
    lookup = "the lookup would be fitted to what both show of the head alone; preprocess.coverage_mm: shared would"
    assert lookup in line and ("networks would" in line) is not paired
    shared = settings.model_copy(update={"preprocess": config(folder).preprocess})
    prepared(shared, paired=paired)
    assert "lookup" not in capsys.readouterr().err


def test_shared_is_what_both_contrasts_show_below_the_crown(folder, capsys):
    entries = prepared(config(folder))
    assert entries.coverage == Coverage("axial", SHORT * SLICE_MM, {"T1": TALL * SLICE_MM, "T2": SHORT * SLICE_MM})
    assert counts(entries) == {"T1": [SHORT] * 3, "T2": [SHORT] * 3}
    for entry in entries.stored["T1"]:
        positions = entry.positions
        # the upper ones, though air varies above
        assert positions == [MARGIN + index for index in range(TALL - SHORT, TALL)]
    assert {entries.statistics[contrast].slices for contrast in ("T1", "T2")} == {
        3 * SHORT
    } and entries.longest == 3 * SHORT
    assert entries.statistics["T1"].fingerprint.coverage_mm == 48.0
    captured = capsys.readouterr()
    output = "trained on: the 48 mm below the crown (scans show, by their medians, T1 80 mm, T2 48 mm)\n"
    assert (captured.out, captured.err) == (output, "")


def test_the_slices_and_facts_are_those_of_the_upper_part_of_each_volume(folder):
    settings = config(folder)
    entries = prepared(settings)
    bank, total = SliceBank(entries.stored["T1"]), np.zeros(BINS, int)
    for number, entry in enumerate(entries.stored["T1"]):
        chain = slice_chain(
            PreprocessSettings(axis="axial", spacing_mm=None, size=32, n4=False, percentiles=(0.5, 99.5))
        )
        data = chain({"image": entry.case.path})
        upper = slice(TALL - SHORT, None)
        expected = data["image"][upper][:SHORT]
        shown = bank.gather(range(number * SHORT, (number + 1) * SHORT))[:, 0].numpy()
        np.testing.assert_allclose(shown, expected, atol=2e-5)
        total += slice_histograms(data["image"][upper], data["image_foreground"][upper]).sum(axis=0)
    assert entries.statistics["T1"].histogram == total.tolist()


def test_a_length_in_mm_counts_from_the_crown_in_both_contrasts(folder, capsys):
    entries = prepared(config(folder, 30))
    assert counts(entries) == {"T1": [8] * 3, "T2": [8] * 3}  # 7.5 slices
    assert "trained on: the 30 mm below the crown" in capsys.readouterr().out
    entries = prepared(config(folder, 64))
    assert counts(entries) == {"T1": [16] * 3, "T2": [SHORT] * 3}
    assert "and preprocess.coverage_mm = 64 leaves that different; networks" in capsys.readouterr().err


def test_the_range_costs_no_other_entry_of_the_store(folder):
    prepared(config(folder, "all"))
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").iterdir()}
    prepared(config(folder))
    prepared(config(folder, 20))
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").iterdir()} == before


@pytest.mark.parametrize(("axis", "along"), [("coronal", 1), ("sagittal", 0)])
def test_other_axes_are_cut_from_the_front_and_about_the_middle(axis, along, tmp_path):
    write_cohort(tmp_path / "data", axis=along)
    entries = prepared(config(tmp_path, axis=axis))
    positions = [entry.positions for entry in entries.stored["T1"]]
    first = MARGIN + (TALL - SHORT if axis == "coronal" else (TALL - SHORT) // 2)
    assert positions == [list(range(first, first + SHORT))] * 3
    assert counts(entries)["T2"] == [SHORT] * 3


def test_contrasts_that_show_the_same_are_left_as_they_are(tmp_path, capsys):
    for number in range(6):
        for contrast in ("T1", "T2"):
            write_head(tmp_path / "data" / f"s{number}_{contrast}.nii.gz", 12 - (contrast == "T2"), seed=number)
    whole, entries = prepared(config(tmp_path, "all")), prepared(config(tmp_path))
    assert entries.coverage.mm is None and entries.stored == whole.stored and entries.statistics == whole.statistics
    assert capsys.readouterr() == ("", "")


def test_a_resumed_run_keeps_its_range_whatever_the_cohort_would_choose_now(folder, tmp_path):
    saved = tmp_path / "coverage.json"
    atomic_text(saved, json_text(coverage_json(Coverage("axial", 40.0, {"T1": 80.0, "T2": 40.0}))))
    entries = prepared(config(folder), saved_coverage=saved)
    assert entries.coverage == Coverage("axial", 40.0, {"T1": 80.0, "T2": 40.0}) and counts(entries)["T1"] == [10] * 3
    assert training_data(entries) != training_data(prepared(config(folder)))
    assert json.loads(saved.read_text()) == coverage_json(entries.coverage)
    saved.write_text('{"coverage_mm": "far"}')
    with pytest.raises(UserError, match=r"coverage\.json: cannot be read; remove it"):
        choose_coverage("shared", "axial", {}, saved)


def test_a_volume_without_a_slice_in_the_range_is_left_out_by_name(folder, capsys):
    settings = config(folder, 10, min_foreground=0.2)
    trained = [case for side in prepared(settings).split.train.values() for case in side]
    tip = trained[0].path
    import nibabel as nib

    image = nib.load(tip)
    voxels = image.get_fdata()
    voxels[:, :, TALL - 6 : TALL] = 0
    voxels[10:14, 8:14, TALL - 6 : TALL] = 500  # a crown too thin for training, of a fair share still
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), image.affine), tip)
    capsys.readouterr()
    entries = prepared(settings)
    assert list(entries.left_out) == [trained[0]]
    reason = "no slice with enough of the head lies in the range trained on, the 10 mm below the crown"
    assert f"warning: {tip}: {reason}; raise preprocess.coverage_mm; left out" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"{tip}: {reason}"):
        prepared(config(folder, 10, min_foreground=0.2, on_bad_volume="stop"))


def test_pairs_are_cut_from_the_first_scans_crown(folder):
    settings = config(folder, 30)
    settings = paired_settings(settings)
    whole = prepared(settings.model_copy(update={"preprocess": config(folder, "all").preprocess}), paired=True)
    entries = prepared(settings, paired=True)
    heads = {entry.case: entry.statistics.head_slices for entry in whole.stored["T1"]}
    assert len(entries.pairs) == len(whole.pairs) > 0
    for cut, all_of_it in zip(entries.pairs, whole.pairs, strict=True):
        last = heads[cut.first.case][1]
        expected = [position for position in all_of_it.first.positions if position > last - 8]
        assert cut.first.positions == cut.second.positions == expected
        assert 0 < cut.first.count == cut.second.count < all_of_it.first.count
    assert training_data(entries) != training_data(whole)
