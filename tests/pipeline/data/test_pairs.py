import json
import os
from dataclasses import replace

import numpy as np
import pytest
from head_scans import AFFINE, HALF, HALF_AFFINE, SHAPE, scan, slanted_left_posterior_affine, write_scan
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

import pipeline.data.pairs as pairing
from pipeline.data.case import Case
from pipeline.data.pairs import PairReader, field_of_view_mask, prepare_scan
from pipeline.utils.errors import UserError
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings
from transforms.slices import stack_slices

SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))


def case_pair(folder, second_voxels=None, second_affine=AFFINE, first_affine=AFFINE):
    voxels = scan("T2", seed=1) if second_voxels is None else second_voxels
    return (
        Case("s1", "", "T1", write_scan(folder / "s1-T1.nii.gz", scan("T1"), first_affine)),
        Case("s1", "", "T2", write_scan(folder / "s1-T2.nii.gz", voxels, second_affine)),
    )


def reader(folder, register=True, **changes):
    return PairReader(replace(SETTINGS, **changes), 16, register=register, registrations=folder / "cache")


def test_a_scan_is_prepared_whole_and_its_padding_comes_off_again(tmp_path):
    path = write_scan(tmp_path / "a.nii.gz", scan("T1"))
    prepared = prepare_scan(path, SETTINGS, 16)
    assert prepared.slices.shape == (SHAPE[2], 64, 64)
    assert prepared.stack.shape == prepared.foreground.shape == (SHAPE[2], *SHAPE[:2])
    assert prepared.volume.shape == SHAPE
    np.testing.assert_allclose(prepared.affine, AFFINE)
    small = prepare_scan(path, replace(SETTINGS, size=32), 16)  # smaller than the slices: they are kept whole
    np.testing.assert_array_equal(small.stack, prepared.stack)


@pytest.mark.parametrize(("axis", "spacing"), [("axial", (4, 2, 3)), ("coronal", (3, 2, 4)), ("sagittal", (2, 3, 4))])
def test_the_spacing_is_that_of_the_stacks_axes_however_the_file_is_turned(tmp_path, axis, spacing):
    path = write_scan(tmp_path / "a.nii.gz", scan("T1"), slanted_left_posterior_affine(SHAPE, (2, 3, 4)))
    prepared = prepare_scan(path, replace(SETTINGS, axis=axis), 16)
    assert prepared.spacing_mm == pytest.approx(spacing)
    assert prepared.stack.shape == tuple(SHAPE[(2, 3, 4).index(size)] for size in spacing)


def test_a_pair_on_one_grid_is_read_without_registration(tmp_path, no_registration):
    first_view, second_view, rigid_transform = reader(tmp_path).read(case_pair(tmp_path))
    np.testing.assert_array_equal(rigid_transform, np.eye(4))
    np.testing.assert_array_equal(first_view.real, second_view.source.stack)
    np.testing.assert_array_equal(second_view.real, first_view.source.stack)
    np.testing.assert_array_equal(first_view.foreground, second_view.source.foreground)


def test_a_pair_on_different_grids_is_registered_onto_the_sources_grid(tmp_path):
    # The head is turned by 6 degrees and shifted by some 6 mm in between.
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_euler("xyz", (3, -2, 5), degrees=True).as_matrix()
    truth[:3, 3] = (3, -3.5, 4)
    shape = (52, 60, 40)
    affine = slanted_left_posterior_affine(shape, (1.75, 1.8, 2.25))
    voxels = scan("T2", shape=shape, affine=affine, world_to_head=HALF @ np.linalg.inv(truth), seed=1)
    cases = case_pair(tmp_path, voxels, affine, HALF_AFFINE)
    first_view, second_view, rigid_transform = reader(tmp_path).read(cases)
    np.testing.assert_allclose(rigid_transform, truth, atol=1.0)
    assert all(view.real.shape == view.source.stack.shape for view in (first_view, second_view))
    in_place = prepare_scan(write_scan(tmp_path / "in_place.nii.gz", scan("T2"), HALF_AFFINE), SETTINGS, 16)
    inside = first_view.foreground & in_place.foreground
    assert np.corrcoef(first_view.real[inside], in_place.stack[inside])[0, 1] > 0.9
    assert (first_view.foreground & in_place.foreground).sum() / in_place.foreground.sum() > 0.95
    moved_t1 = scan("T1", shape=shape, affine=affine, world_to_head=HALF @ np.linalg.inv(truth))
    expected = prepare_scan(write_scan(tmp_path / "moved.nii.gz", moved_t1, affine), SETTINGS, 16)
    inside = second_view.foreground & expected.foreground
    assert np.corrcoef(second_view.real[inside], expected.stack[inside])[0, 1] > 0.9


def test_a_registration_is_kept_until_a_file_the_settings_the_version_or_the_entry_change(tmp_path, monkeypatch):
    cases, calls = case_pair(tmp_path, scan("T2", shape=(36, 44, 33), seed=1)), []
    monkeypatch.setattr(pairing, "register_rigid", lambda *_: calls.append(1) or np.eye(4))

    def registrations(**changes):
        for _ in range(2):  # the second time it is kept
            reader(tmp_path, **changes).read(cases)
        return len(calls)

    assert registrations() == 1
    (entry,) = (tmp_path / "cache").iterdir()
    not_numbers = json.dumps({"matrix": np.full((4, 4), np.nan).tolist()})
    for count, damage in enumerate(("", '{"matrix": [[1, 2], [3, 4]]}', not_numbers), 2):
        entry.write_text(damage)
        assert registrations() == count
    assert registrations(percentiles=[1, 99]) == 5
    os.utime(cases[0].path, ns=(1, 10**18))
    assert registrations() == 6
    monkeypatch.setattr(pairing, "VERSION", pairing.VERSION + 1)
    assert registrations() == 7


def test_a_failing_registration_names_both_files(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no overlap")

    monkeypatch.setattr(pairing, "register_rigid", fail)
    cases = case_pair(tmp_path, scan("T2", shape=(36, 44, 33), seed=1))
    with pytest.raises(UserError, match=r"s1-T1\.nii\.gz and .*s1-T2\.nii\.gz: no overlap"):
        reader(tmp_path).read(cases)


def test_heads_that_do_not_overlap_are_an_error(tmp_path):
    distant_affine = AFFINE.copy()
    distant_affine[0, 3] += 1000
    cases = case_pair(tmp_path, scan("T2", seed=1), distant_affine)
    with pytest.raises(UserError, match="heads do not overlap; check their affines"):
        reader(tmp_path, register=False).read(cases)


def test_an_unreadable_scan_is_named_with_its_reason(tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"broken\.nii\.gz: ") as caught:
        prepare_scan(broken, SETTINGS, 16)
    assert "\n" not in str(caught.value) and str(caught.value).count("broken.nii.gz") == 1
    constant = write_scan(tmp_path / "constant.nii.gz", np.full((20, 20, 20), 3, np.float32))
    with pytest.raises(UserError, match=r"constant\.nii\.gz: .*same value"):
        prepare_scan(constant, SETTINGS, 16)


# ── volumes cut to their heads ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spacing_mm", [None, [4.0, 5.5]])
def test_heads_of_one_grid_stay_together_whatever_their_boxes(tmp_path, no_registration, spacing_mm):
    smaller = scan("T2", seed=1)
    smaller[:, :, 26:] = np.random.default_rng(2).normal(0, 8, smaller[:, :, 26:].shape)  # its top is missing
    cases = case_pair(tmp_path, smaller)
    settings = {"version": CHAIN_VERSION, "spacing_mm": spacing_mm}
    first_view, second_view, rigid_transform = reader(tmp_path, **settings).read(cases)
    assert np.array_equal(rigid_transform, np.eye(4))
    assert first_view.source.box.tolist() != second_view.source.box.tolist()
    for view in (first_view, second_view):
        assert view.real.shape == view.source.stack.shape == view.foreground.shape
    overlap = first_view.source.foreground & first_view.foreground
    edges = [np.abs(np.diff(stack, axis=1))[overlap[:, 1:]] for stack in (first_view.source.stack, first_view.real)]
    assert np.corrcoef(*edges)[0, 1] > 0.4  # and 0.2 or less where one is a voxel aside
    if spacing_mm is None:  # each voxel as its own scan has it
        start = first_view.source.box[:, 0] - second_view.source.box[:, 0]
        second_volume = second_view.source.volume
        assert stack_slices(first_view.real, "axial")[tuple(10 - start)] == second_volume[10, 10, 10]


def test_a_target_of_which_the_box_holds_a_part_is_scaled_as_a_whole(tmp_path, no_registration):
    smaller, brighter = scan("T2", seed=1), scan("T1")
    smaller[:, :, 22:] = np.random.default_rng(2).normal(0, 8, smaller[:, :, 22:].shape)  # its top is missing
    brighter[:, :, 26:] *= 3  # there
    cases = case_pair(tmp_path, smaller)
    write_scan(cases[0].path, brighter)
    there, back, _ = reader(tmp_path, version=CHAIN_VERSION, spacing_mm=[4.0, 5.5]).read(cases)
    low, high = there.source.inverse_state["image_range"]
    planes = slice(*back.source.box[2].clip(0, SHAPE[2]))
    assert planes.stop <= 26  # the brightest part of the head is beyond
    shown = back.real[back.foreground].mean() / 2 + 0.5
    head = brighter[:, :, planes][scan("T1", noise=0)[:, :, planes] > 20].mean()
    assert (high - low) * shown + low == pytest.approx(head, rel=0.1)


def test_what_a_box_reaches_beyond_the_field_of_view_is_not_seen(tmp_path):
    low, high = scan("T1")[:, :, :20], scan("T1")
    settings = replace(SETTINGS, version=CHAIN_VERSION)
    cut, whole_scan = (
        prepare_scan(write_scan(tmp_path / f"{number}.nii.gz", voxels), settings, 16)
        for number, voxels in enumerate((low, high))
    )
    covered = field_of_view_mask(whole_scan, cut, np.eye(4))
    planes = np.flatnonzero(covered.any(axis=(1, 2))) + whole_scan.box[2, 0]  # of the file
    assert planes.max() == 19
    assert len(cut.slices) > 20 - cut.box[2, 0]  # its box reaches further


def test_registration_sees_the_same_beside_an_empty_margin(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pairing, "register_rigid", lambda *scans: seen.append(scans) or np.eye(4))
    moved_scan = scan("T2", seed=1)
    shifted_affine = AFFINE.copy()
    shifted_affine[0, 3] += 0.5
    wide = np.pad(moved_scan, [(9, 0), (0, 4), (8, 8)])
    wide_affine = shifted_affine @ from_matvec(np.eye(3), [-9, 0, -8])
    for name, voxels, affine in (("a", moved_scan, shifted_affine), ("b", wide, wide_affine)):
        (tmp_path / name).mkdir()
        cases = case_pair(tmp_path / name, voxels, affine)
        reader(tmp_path / name, version=CHAIN_VERSION).read(cases)
    for without, beside in zip(*seen, strict=True):  # volume and affine of each scan
        np.testing.assert_allclose(without, beside, atol=1e-6)
