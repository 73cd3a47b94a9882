import json
import os
from dataclasses import replace

import numpy as np
import pytest
from head_scans import AFFINE, scan
from nibabel.affines import from_matvec
from PIL import Image
from small_pairs import CHAIN, SETTINGS, build, pair, slices_of
from small_store import contents

from pipeline.data import pairs as pairing
from pipeline.data.case import Case
from pipeline.data.pair_cache import common_slices, look_up_pair, pair_key
from pipeline.data.pairs import prepare_scan
from pipeline.data.slice_cache import extract, look_up
from pipeline.utils.errors import UserError
from transforms.slices import centre_fit

# ── alignment ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_on_one_grid_both_halves_are_what_each_scan_is_on_its_own(tmp_path, no_registration):
    cases = pair(tmp_path)
    [stored], failures = build([cases], tmp_path)
    assert failures == {} and stored.cases == cases
    positions = stored.first.positions
    for half, slices in zip((stored.first, stored.second), slices_of(stored), strict=True):
        whole_scan = prepare_scan(half.case.path, CHAIN, 1).stack
        np.testing.assert_allclose(slices, centre_fit(whole_scan, 40, 40, -1)[positions], atol=2e-5)
        extract(half.case.path, tmp_path / "alone", CHAIN, 0.1)  # as unpaired training sees it
        unpaired = look_up(half.case, tmp_path / "alone", CHAIN, 0.1)
        shared = [unpaired.positions.index(position) for position in positions]
        np.testing.assert_array_equal(np.load(unpaired.path)[shared], np.load(half.path))


def test_a_second_scan_of_another_field_of_view_is_brought_to_its_place(tmp_path, no_registration):
    affine = AFFINE.copy()
    affine[:3, 3] = AFFINE[:3, :3] @ [2, 0, 7] + AFFINE[:3, 3]  # begins 2 voxels to the right and 7 further up
    cases = pair(tmp_path, scan("T2", seed=1)[2:, :, 7:], affine)
    [stored], _ = build([cases], tmp_path, settings=replace(SETTINGS, register=False))
    positions = np.array(stored.first.positions)
    unregistered = prepare_scan(cases[1].path, CHAIN, 1).stack
    in_place = np.pad(unregistered, [(7, 0), (2, 0), (0, 0)], constant_values=-1)
    np.testing.assert_allclose(slices_of(stored)[1], centre_fit(in_place, 40, 40, -1)[positions], atol=2e-5)
    assert positions.min() == 7  # below, the second shows nothing


def test_a_registration_is_followed_and_shared_with_whoever_reads_the_pair(tmp_path, monkeypatch):
    cases, movement = pair(tmp_path, affine=from_matvec(np.eye(3), [9, 0, 0]) @ AFFINE), np.eye(4)
    movement[0, 3] = 9.0
    registered = []
    monkeypatch.setattr(pairing, "register_rigid", lambda *_: registered.append(1) or movement)
    [stored], _ = build([cases], tmp_path)
    reader = pairing.PairReader(CHAIN, 16, register=True, registrations=tmp_path / "store" / "registrations")
    np.testing.assert_array_equal(reader.read(cases)[2], stored.rigid_transform)
    assert np.array_equal(stored.rigid_transform, movement) and len(registered) == 1
    unmoved = centre_fit(prepare_scan(cases[1].path, CHAIN, 1).stack, 40, 40, -1)  # voxels lie upon voxels
    np.testing.assert_allclose(slices_of(stored)[1], unmoved[stored.first.positions], atol=2e-5)


# ── which slices ──────────────────────────────────────────────────────────────────────────────────────────────


def mask(*shares):
    """Slices of 100 pixels of which the given numbers are set."""
    return np.arange(100).reshape(1, 10, 10) < np.array(shares)[:, None, None]


def test_kept_are_the_slices_with_enough_of_the_head_in_both():
    first, second = mask(0, 9, 10, 50, 50, 50), mask(50, 50, 50, 0, 9, 10)
    assert common_slices(first, second, first, 0.1).tolist() == [2, 5]


def test_slices_that_the_second_scan_shows_in_part_only_are_left_out():
    first = mask(60, 60, 60, 60)
    assert common_slices(first, first, mask(60, 57, 56, 0), 0.1).tolist() == [0, 1]


# ── keys, keeping and rebuilding ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change", [{"preprocess": replace(CHAIN, axis="coronal")}, {"min_foreground": 0.2}, {"register": False}]
)
def test_the_key_changes_with_each_setting(change, tmp_path):
    cases = pair(tmp_path)
    assert pair_key(cases, SETTINGS) != pair_key(cases, replace(SETTINGS, **change))
    assert pair_key(cases, SETTINGS) != pair_key(cases[::-1], SETTINGS)


def test_the_key_changes_when_either_file_does(tmp_path):
    cases, keys = pair(tmp_path), []
    for case in (None, *cases):
        if case is not None:
            os.utime(case.path, ns=(1, 10**18))
        keys.append(pair_key(cases, SETTINGS))
    assert len(set(keys)) == 3


DAMAGE = {
    "first half cut short": ("*-first.npy", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "second half shorter": ("*-second.npy", lambda path: np.save(path, np.load(path)[1:])),
    "note of one file": ("*.json", lambda path: path.write_text(json.dumps({"count": 3, "files": [{}]}))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_rebuilt(damage, tmp_path):
    cases = pair(tmp_path)
    build([cases], tmp_path)
    original = contents(tmp_path / "store")
    pattern, spoil = DAMAGE[damage]
    [victim] = (tmp_path / "store").glob(pattern)
    spoil(victim)
    os.utime(victim, ns=(2 * 10**18, 2 * 10**18))  # within the clock's last tick it might seem untouched
    assert look_up_pair(cases, tmp_path / "store", SETTINGS) is None
    build([cases], tmp_path)
    assert contents(tmp_path / "store") == original


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────────────


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
    with pytest.raises(UserError, match="none of 1 pairs could be used; the reasons are above"):
        build([bad], tmp_path)


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
