from dataclasses import asdict, replace

import ixi_like
import numpy as np
import pytest
from negative_model import files_in, loads, negative_model, volume_at

from pipeline.data.statistics import ContrastStatistics
from pipeline.inference.multi_view import open_multi_view
from pipeline.inference.translator import translate
from pipeline.inference.uncertainty import Calibration
from pipeline.translate import main
from pipeline.utils.errors import UserError

FLAT = Calibration(0.0, 1.0, (0.0,), (((0.25,),),))  # expects a quarter, whatever it sees


def model_along(axis, high=1000.0, calibration=FLAT):
    model = negative_model()
    statistics = {name: ContrastStatistics(0.0, high, integer=False) for name in model.statistics}
    return replace(
        model, settings=replace(model.settings, axis=axis), statistics=statistics, calibration=asdict(calibration)
    )


def views_of(*axes, uncertainty=False, **more):
    models = [model_along(axis, **more) for axis in axes]
    return open_multi_view(
        [f"run_{axis}" for axis in axes], models, "T2", axes if len(axes) > 1 else None, uncertainty=uncertainty
    )


@pytest.fixture(scope="module")
def source():
    return ixi_like.ixi_t1(scale=8)


def test_one_view_is_the_model_itself(source):
    views = views_of("coronal")
    translation = views.translate(source)
    single_view = translate(source, views.models[0], "T2")
    assert np.array_equal(translation.volume.get_fdata(), single_view.get_fdata()) and translation.uncertainty is None
    assert views.info() == views.models[0].info("T2")


def test_the_fusion_is_the_mean_of_the_views_each_in_its_own_intensities(source):
    models = [model_along("axial", 1000.0), model_along("coronal", 3000.0)]
    views = open_multi_view(["a", "b"], models, "T2", ["coronal", "axial"], uncertainty=False)
    fused = views.translate(source).volume
    view_translations = [translate(source, model, "T2").get_fdata() for model in models]
    np.testing.assert_allclose(fused.get_fdata(), np.mean(view_translations, axis=0), atol=0.01)
    assert np.array_equal(fused.affine, source.affine) and fused.shape == source.shape
    assert views.info().origin == "contrast translation + contrast translation"


def test_the_weights_are_not_hashed_for_each_volume(source, monkeypatch):
    views = views_of("axial", "coronal")
    monkeypatch.setattr(type(views.models[0]), "identity", None)  # half a second of a full-size network
    description = bytes(views.translate(source).volume.header["descrip"].item()).decode()
    assert description.startswith("not for clinical use; synthetic T2, contrast translation + contrast translation")


def test_the_map_is_in_the_targets_intensities_on_the_sources_grid_and_zero_outside_the_head(source):
    map_ = views_of("axial", uncertainty=True, high=800.0).translate(source).uncertainty
    assert map_.get_data_dtype() == np.float32 and map_.shape == source.shape
    assert np.array_equal(map_.affine, source.affine)
    values = np.unique(map_.get_fdata().round(3))
    assert values.tolist() == [0, 100]  # a quarter of [-1, 1]'s unit, where 2 are 800


def test_where_views_disagree_the_map_is_at_least_their_spread(source):
    models = [model_along("axial", 1000.0), model_along("coronal", 9000.0)]
    translation = open_multi_view(["a", "b"], models, "T2", ["axial", "coronal"], uncertainty=True).translate(source)
    view_translations = [translate(source, model, "T2").get_fdata() for model in models]
    spread = np.std(view_translations, axis=0)
    head = translation.uncertainty.get_fdata() > 0
    assert head.any() and (translation.uncertainty.get_fdata()[head] >= spread[head] - 0.01).all()
    quarter = (125 + 1125) / 2
    calm = head & (spread < quarter)
    assert calm.any() and np.median(translation.uncertainty.get_fdata()[calm]) == pytest.approx(quarter)


def test_models_that_do_not_fit_the_views_are_refused():
    with pytest.raises(UserError, match=r"several models were given; say --views axial,coronal to average"):
        open_multi_view(["a", "b"], [model_along("axial"), model_along("coronal")], "T2", None, uncertainty=False)
    with pytest.raises(UserError, match=r"--views axial,coronal needs one --model for each axis.* a: axial$"):
        open_multi_view(["a"], [model_along("axial")], "T2", ["axial", "coronal"], uncertainty=False)
    strange = replace(model_along("coronal"), contrasts=("T2", "PD"))
    with pytest.raises(UserError, match=r"b: the models translate between different contrasts, T1/T2 and PD/T2"):
        open_multi_view(["a", "b"], [model_along("axial"), strange], "T2", ["axial", "coronal"], uncertainty=False)


@pytest.fixture
def command(monkeypatch):
    models = {axis: model_along(axis) for axis in ("axial", "coronal", "sagittal")}
    loads(monkeypatch, lambda uri, device: models[uri])
    return lambda *arguments: main([*map(str, arguments), "--to", "T2", "--quiet"])


def test_a_map_is_written_beside_every_volume_and_a_missing_one_is_made_again(tmp_path, command):
    for name in ("a", "b"):
        volume_at(tmp_path / "in" / f"{name}.nii.gz")
    arguments = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--model", "axial", "--uncertainty")
    assert command(*arguments) == 0
    names = ["a.nii.gz", "a_uncertainty.nii.gz", "b.nii.gz", "b_uncertainty.nii.gz"]
    assert files_in(tmp_path / "out") == names
    (tmp_path / "out" / "b_uncertainty.nii.gz").unlink()
    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    assert command(*arguments) == 0
    assert files_in(tmp_path / "out") == names and (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == before


def test_what_several_views_find_doubtful_is_one_warning(tmp_path, command, capsys):
    image = ixi_like.ixi_t1(scale=8).slicer[:, :7, :6]
    image.header.set_slope_inter(1, 0)
    content = bytearray(image.to_bytes())
    content[112:116] = np.float32(np.nan).tobytes()  # scl_slope
    (tmp_path / "a.nii").write_bytes(content)
    views = ("--model", "axial", "coronal", "--views", "axial,coronal")
    assert command("-i", tmp_path / "a.nii", "-o", tmp_path / "out.nii", *views) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'a.nii'}: its scl_slope is nan")
    assert line.count("its scl_slope is nan") == 1 and line.count("smaller than the network's stride") == 2


def test_no_map_falls_on_another_volume_or_on_a_source(tmp_path, command, capsys):
    for name in ("a", "a_uncertainty"):
        volume_at(tmp_path / "in" / f"{name}.nii.gz")
    more = ("--model", "axial", "--uncertainty")
    assert command("-i", tmp_path / "in", "-o", tmp_path / "out", *more) == 3
    assert "a.nii.gz: its map would be another volume, a_uncertainty.nii.gz" in capsys.readouterr().err
    assert "a.nii.gz" not in files_in(tmp_path / "out")
    assert command("-i", tmp_path / "in" / "a_uncertainty.nii.gz", "-o", tmp_path / "in" / "b.nii.gz", *more) == 0
    source = volume_at(tmp_path / "c_uncertainty.nii.gz")
    assert command("-i", source, "-o", tmp_path / "c.nii.gz", *more) == 2
    assert "would overwrite a source" in capsys.readouterr().err


def test_a_new_volume_does_not_keep_an_earlier_map_nor_lose_it_where_it_fails(tmp_path, command, monkeypatch):
    out, (_, strange) = tmp_path / "out", (volume_at(tmp_path / "in" / f"{name}.nii.gz") for name in "ab")
    words = ("-i", tmp_path / "in", "-o", out, "--model", "axial")
    assert command(*words, "--uncertainty") == 0
    (out / "b_uncertainty.nii.gz").write_bytes(strange.read_bytes())  # not ours
    before = {name: (out / name).read_bytes() for name in files_in(out)}
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.batch.batch.volume_writer", lambda image, path: lambda stream: 1 / 0)
        for more in ((), ("--uncertainty",)):
            assert command(*words, "--overwrite", *more) == 2
    assert {name: (out / name).read_bytes() for name in files_in(out)} == before
    assert command(*words) == 0 and files_in(out) == sorted(before)  # skipped
    assert command(*words, "--overwrite") == 0
    assert files_in(out) == ["a.nii.gz", "b.nii.gz", "b_uncertainty.nii.gz"]


def test_wrong_views_and_a_style_are_refused_at_once(tmp_path, command, capsys):
    arguments = ("-i", tmp_path, "-o", tmp_path / "out", "--model", "axial")
    volume_at(tmp_path / "a.nii.gz")
    assert command(*arguments, "--views", "axial,oblique") == 2
    assert "--views axial,oblique: 'oblique' is not an axis; choose from axial, coronal" in capsys.readouterr().err
    assert command(*arguments, "--views", "axial,coronal,sagittal") == 2
    assert "--views axial,coronal,sagittal needs one --model for each axis, and was given" in capsys.readouterr().err
    assert command(*arguments, "--style", tmp_path / "a.nii.gz", "--uncertainty") == 2
    assert "--style goes neither with --views nor with --uncertainty" in capsys.readouterr().err


def test_auto_chooses_for_every_view_and_by_the_volumes_that_are_left(tmp_path, command, monkeypatch):
    requests = []
    monkeypatch.setattr("pipeline.exporting.backends.automatic", lambda *given: requests.append(given[1:]) or given[0])
    for name in ("a", "b"):
        volume_at(tmp_path / "in" / f"{name}.nii.gz")
    arguments = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--backend", "auto")
    assert command(*arguments, "--model", "axial", "coronal", "--views", "axial,coronal") == 0
    assert requests == [("T2", 2)] * 2
    (tmp_path / "out" / "a.nii.gz").unlink()
    assert command(*arguments, "--model", "axial", "coronal", "--views", "axial,coronal") == 0
    assert requests[2:] == [("T2", 1)] * 2
