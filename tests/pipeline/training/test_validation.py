import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_validation import CONTRASTS, case, constant, scan, validation
from torch import nn

from pipeline.data.pairs import PreparedScan
from pipeline.data.slice_cache import CacheOptions
from pipeline.training.validation import evaluating
from pipeline.training.validation_scores import direction_score, score_name
from pipeline.utils.errors import UserError
from transforms.slice_chain import PreprocessSettings

SETTINGS = PreprocessSettings("axial", None, 16, False, None)


def identity():
    return {"T1": nn.Identity(), "T2": nn.Identity()}


@pytest.fixture
def pair(tmp_path):
    return [case(tmp_path, "one", "T1"), case(tmp_path, "two", "T2")]


# ── scores ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_psnr_and_ssim_of_a_network_that_copies_are_those_worked_out_by_hand(pair):
    # Everywhere 0.1 beside 0.3: the mean square error is 0.04 and the range 2, so PSNR = 10 log10(4 / 0.04) = 20 dB;
    # without variances SSIM is its luminance term (2ab + C1) / (a² + b² + C1), C1 = (0.01 x 2)².
    scores = validation(pair, {"one": constant(0.1), "two": constant(0.3)}).scores(identity())
    luminance = (2 * 0.1 * 0.3 + 4e-4) / (0.01 + 0.09 + 4e-4)
    for direction in ("T1_to_T2", "T2_to_T1"):
        assert scores[f"validation/{direction}/psnr"] == pytest.approx(20, abs=1e-4)
        assert scores[f"validation/{direction}/ssim"] == pytest.approx(luminance, abs=1e-5)
    assert scores["validation/score"] == pytest.approx(20 + 10 * luminance, abs=1e-4)


def test_only_the_real_targets_foreground_counts(pair):
    target, mask = np.full((1, 16, 16), -1.0), np.zeros((1, 12, 14), bool)
    mask[0, :6] = True
    target[0, 2:8] = 0.5  # the field of view begins 2 rows in: these are its first 6
    scans = {"one": constant(0.3), "two": scan(target, mask)}
    scores = validation(pair, scans).scores(identity())
    assert scores["validation/T1_to_T2/psnr"] == pytest.approx(20, abs=1e-4)  # 0.2 off inside, 1.3 outside


def test_the_score_is_the_mean_of_both_directions_over_subjects(tmp_path):
    cases, scans = [], {}
    for subject, (first, second) in {"a": (0.0, 0.2), "b": (0.0, 0.02)}.items():  # 20 dB and 40 dB
        for contrast, value in (("T1", first), ("T2", second)):
            cases.append(case(tmp_path, f"{subject}{contrast}", contrast, subject))
            scans[f"{subject}{contrast}"] = constant(value)

    class Halved(nn.Module):
        def forward(self, image):
            return image / 2

    scores = validation(cases, scans).scores({"T2": nn.Identity(), "T1": Halved()})
    assert scores["validation/T1_to_T2/psnr"] == pytest.approx(30, abs=1e-3)
    halved = 10 * math.log10(4) * 1  # half the error: 6.02 dB more
    assert scores["validation/T2_to_T1/psnr"] == pytest.approx(30 + halved, abs=1e-3)
    by_direction = [direction_score(scores, direction) for direction in ("T1_to_T2", "T2_to_T1")]
    assert by_direction[1] == scores["validation/T2_to_T1/psnr"] + 10 * scores["validation/T2_to_T1/ssim"]
    assert scores["validation/score"] == pytest.approx(sum(by_direction) / 2)


def test_without_pairs_the_score_is_minus_cycle_error_and_intensity_distance(tmp_path):
    class Shift(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, image):
            return image + self.by

    cases = [case(tmp_path, "one", "T1", "x"), case(tmp_path, "two", "T2", "y")]
    scans = {"one": constant(0.3), "two": constant(0.3)}
    scores = validation(cases, scans).scores({"T2": Shift(0.2), "T1": Shift(-0.1)})
    for direction in ("T1_to_T2", "T2_to_T1"):
        assert scores[f"validation/{direction}/cycle_error"] == pytest.approx(0.1, abs=1e-5)
    assert scores["validation/T1_to_T2/intensity_distance"] == pytest.approx(0.5, abs=0.01)  # 0.5 from all at 0
    assert scores["validation/T2_to_T1/intensity_distance"] == pytest.approx(0.52, abs=0.01)  # 0.2 from even over ±1
    assert scores["validation/score"] == pytest.approx(-(0.1 + (0.5 + 0.52) / 2), abs=0.01)
    assert direction_score(scores, "T1_to_T2") == pytest.approx(-(0.1 + 0.5), abs=0.01)


def test_a_scan_without_a_head_to_score_in_is_left_out_with_a_warning(tmp_path, capsys):
    cases = [case(tmp_path, f"{subject}{contrast}", contrast, subject) for subject in "ab" for contrast in CONTRASTS]
    scans = {scan_case.path.name.removesuffix(".nii"): constant(0.1) for scan_case in cases}
    scans["bT2"] = scan(np.full((1, 16, 16), 0.3), np.zeros((1, 12, 14), bool))
    made = validation(cases, scans)
    assert [fixed.label for fixed in made.by_target["T2"]] == ["a"]
    assert capsys.readouterr().err == (
        f"warning: {tmp_path / 'bT1.nii'}: shows no head to score T2 in; left out of the validation\n"
    )
    scores = made.scores(identity())
    assert not any(math.isnan(score) for score in scores.values())


def test_a_score_that_is_no_number_is_warned_of_once(pair, capsys):
    made = validation(pair, {"one": constant(0.1), "two": constant(0.3)})
    made.by_target["T2"][0].real[:] = np.nan
    for _ in range(2):
        assert math.isnan(made.scores(identity())["validation/T1_to_T2/psnr"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: validation: the score of T1 → T2 is not a number, so nothing is chosen by it; ")


def test_scores_of_other_measures_have_other_names():
    assert [score_name(score) for score in (12.0, 0.0, -0.4)] == [
        "PSNR [dB] + 10 SSIM", "PSNR [dB] + 10 SSIM", "minus cycle error and intensity distance",
    ]  # fmt: skip


# ── slices ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_slices_are_spread_evenly_over_those_with_a_fair_share_of_the_head(pair):
    mask = np.zeros((12, 12, 14), bool)
    mask[2:10] = True
    mask[1, 0, 0] = True  # a speck of head is not a fair share
    values = np.linspace(-1, 1, 12)[:, None, None] * np.ones((16, 16))
    scans = {"one": scan(values, mask), "two": scan(values, mask)}
    (fixed,) = validation(pair, scans, slices=3).by_target["T2"]
    np.testing.assert_allclose(fixed.source[:, 0, 0], values[[2, 6, 9], 0, 0], atol=1e-6)
    assert fixed.real.shape == (3, 12, 14)


def test_the_slices_are_divided_among_the_subjects(tmp_path):
    names = [f"{subject}{contrast}" for subject in "abcd" for contrast in CONTRASTS]
    cases = [case(tmp_path, name, name[1:], name[0]) for name in names]
    result = validation(cases, {name: constant(0, count=9) for name in names}, slices=8)
    assert [len(fixed.source) for fixed in result.by_target["T1"]] == [2, 2, 2, 2]


# ── detectors ───────────────────────────────────────────────────────────────────────────────────────────────


def fading(falls, seed=0):
    """Four disks that darken, or brighten, towards their centres, in noise of their own."""
    rows, columns = np.ogrid[:12, :14]
    depth = 1 - np.hypot(rows - 5.5, columns - 6.5) / 6  # 0 at the surface
    noise = np.random.default_rng(seed).normal(0, 0.1, (4, 12, 14))
    values = np.where(depth > 0, (0.5 - depth if falls else depth - 0.5) + noise, -1)
    foreground = np.repeat((depth > 0)[None], 4, axis=0)
    return scan(np.pad(values, ((0, 0), (2, 2), (1, 1)), constant_values=-1), foreground)


def detected(scores):
    return {name: value for name, value in scores.items() if name.startswith("detectors/")}


def test_the_detectors_values_are_among_the_metrics(pair):
    scans = {"one": fading(falls=True), "two": fading(falls=False)}
    result = detected(validation(pair, scans).scores(identity()))
    components = [f"shift_{axis}_{unit}" for axis in "xy" for unit in ("mm", "px")]
    names = {
        "brightness_offset", "contrast_inversion", "gain", "hidden_information", "identity_collapse", "mode_collapse",
        *components, "spatial_shift_mm", "unturned_contrast",
    }  # fmt: skip
    assert set(result) == {f"detectors/{direction}/{name}" for direction in ("T1_to_T2", "T2_to_T1") for name in names}
    for direction in ("T1_to_T2", "T2_to_T1"):  # a copy where the contrasts are opposed
        assert result[f"detectors/{direction}/contrast_inversion"] < -0.9
        assert result[f"detectors/{direction}/identity_collapse"] == 0


def test_one_detector_alone_sees_the_real_target_and_none_its_head(pair):
    item, two = fading(falls=True), fading(falls=False)
    less = two.foreground.copy()
    less[:, :4] = False
    other = replace(two, slices=np.full_like(two.slices, 0.3), foreground=less)
    values = [detected(validation(pair, {"one": item, "two": real}).scores(identity())) for real in (two, other)]
    unpaired = validation(pair, {"one": item, "two": two}, scored_in_pairs=False)
    values.append(detected(unpaired.scores(identity())))
    seeing = [item.pop("detectors/T1_to_T2/unturned_contrast", None) for item in values]
    assert seeing[0] > 0.5 and seeing[1:] == [None, None]  # of a level target nothing can be said
    forward = [{name: value for name, value in item.items() if "T1_to_T2" in name} for item in values]
    assert len(forward[0]) == 11
    assert forward[0] == forward[1] == forward[2]


def test_a_pixel_has_the_two_sides_that_lie_in_the_slice(pair):
    sides, flat = {}, constant(0.1)
    for axis in ("sagittal", "coronal", "axial"):
        oblong = replace(flat, affine=np.diag([3.0, -0.5, 2.0, 1.0]), settings=replace(flat.settings, axis=axis))
        sides[axis] = validation(pair, {"one": oblong, "two": oblong}).by_target["T2"][0].pixel_mm
    assert sides == {"sagittal": (0.5, 2.0), "coronal": (3.0, 2.0), "axial": (3.0, 0.5)}


# ── what validating leaves alone ────────────────────────────────────────────────────────────────────────────


class Restless(nn.Module):
    """Has dropout and batch statistics, which only training may change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5))

    def forward(self, image):
        return self.layers(image)


def test_networks_are_validated_in_evaluation_mode_and_put_back(pair):
    networks = {contrast: Restless() for contrast in CONTRASTS}
    before = {name: value.clone() for name, value in networks["T1"].state_dict().items()}
    result = validation(pair, {"one": constant(0.1), "two": constant(0.3)})
    assert result.scores(networks) == result.scores(networks)
    result.panels(networks, 1, oriented=True)
    assert all(module.training for module in networks["T1"].modules())
    assert all(torch.equal(value, before[name]) for name, value in networks["T1"].state_dict().items())


def test_no_random_number_is_drawn(pair):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    result = validation(pair, {"one": constant(0.1, 9), "two": constant(0.3, 9)})
    networks = {contrast: nn.Dropout(0.5) for contrast in CONTRASTS}
    result.scores(networks)
    result.panels(networks, 2, oriented=True)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


# ── bad scans and pictures ──────────────────────────────────────────────────────────────────────────────────


def test_a_scan_that_cannot_be_read_is_named_and_left_out(tmp_path, pair, capsys):
    bad = [case(tmp_path, "bad", "T1", "t"), case(tmp_path, "two", "T2", "t")]
    result = validation([*pair, *bad], {"one": constant(0.1), "two": constant(0.3)})
    assert [fixed.label for fixed in result.by_target["T1"]] == ["s"]
    assert capsys.readouterr().err == f"warning: {tmp_path}/bad.nii: damaged; left out of the validation\n"


def test_a_scan_that_cannot_be_read_is_refused_where_bad_volumes_stop_a_run(tmp_path, pair):
    bad = [case(tmp_path, "bad", "T1", "t"), case(tmp_path, "two", "T2", "t")]
    cache = CacheOptions(tmp_path / "store", 1, "stop", quiet=True)
    with pytest.raises(UserError, match=r"damaged \(preprocess\.on_bad_volume: skip would validate without it"):
        validation(bad, {}, cache=cache)


def test_slices_too_small_for_ssim_are_left_out_and_refused_before_training_where_all_are(tmp_path, pair, capsys):
    thin = PreparedScan(np.zeros((1, 16, 16), np.float32), (12, 10), np.ones((1, 12, 10), bool), np.eye(4), SETTINGS)
    with pytest.raises(UserError, match="no validation subject could be scored, for the reasons above"):
        validation(pair, {"one": thin, "two": thin})
    assert "one.nii: slices of 12x10 pixels are too small for SSIM" in capsys.readouterr().err
    others = [case(tmp_path, "large1", "T1", "u"), case(tmp_path, "large2", "T2", "u")]
    scans = {"one": thin, "two": thin, "large1": constant(0.1), "large2": constant(0.1)}
    assert [len(side) for side in validation([*pair, *others], scans).by_target.values()] == [1, 1]


@pytest.mark.parametrize("scored_in_pairs", [True, False])
def test_no_more_slices_are_scored_than_there_may_be_however_many_scans_there_are(tmp_path, scored_in_pairs):
    cases = [case(tmp_path, f"{subject}{name}", name, f"{subject}") for subject in range(5) for name in CONTRASTS]
    scans = {scan_case.path.stem: constant(0.1) for scan_case in cases}
    made = validation(cases, scans, slices=3, scored_in_pairs=scored_in_pairs)
    assert [len(scans) for scans in made.by_target.values()] == [3, 3]


def test_contrasts_of_unlike_many_scans_have_as_many_slices_each(tmp_path):
    cases = [case(tmp_path, f"{number}T1", "T1", f"{number}") for number in range(6)]
    cases += [case(tmp_path, "6T2", "T2", "6")]
    made = validation(cases, {each.path.stem: constant(0.1, 9) for each in cases}, slices=6, scored_in_pairs=False)
    assert [sum(len(fixed.source) for fixed in side) for side in made.by_target.values()] == [6, 6]


def test_without_any_scan_that_can_be_read_the_run_is_told_what_to_do(tmp_path, pair):
    bad = [case(tmp_path, "bad", "T1"), pair[1]]
    with pytest.raises(UserError, match=r"no validation subject could be scored, .* let others validate \(split"):
        validation(bad, {"two": constant(0.3)})


def test_a_panel_is_drawn_for_each_direction_and_only_volumes_speak_of_left_and_right(pair):
    result = validation(pair, {"one": constant(0.1, 9), "two": constant(0.3, 9)})
    panels, pictures = (result.panels(identity(), 2, oriented=oriented) for oriented in (True, False))
    assert panels.keys() == {"T1", "T2"}
    assert all(panel.ndim == 3 and panel.dtype == np.uint8 for panel in panels.values())
    assert panels["T1"].shape[0] > pictures["T1"].shape[0]  # by the line that says which side is which
    assert result.panels(identity(), 4, oriented=True)["T1"].shape[0] > panels["T1"].shape[0]


def test_parts_that_a_network_shares_with_others_go_back_to_their_own_modes():
    shared = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1)).eval()
    network = nn.Sequential(shared, nn.Dropout(0.5))
    shared.eval()
    with pytest.raises(RuntimeError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise RuntimeError
    assert network.training and network[1].training
    assert not any(module.training for module in shared.modules())
