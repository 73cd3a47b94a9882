import nibabel as nib
import numpy as np
import pytest
import torch
from small_checkpoints import untrained_model
from small_volumes import write_volume

from pipeline.data.pairs import prepare_scan
from pipeline.inference.model import load_model
from pipeline.inference.translator import translate, use_style_of
from pipeline.translate import main
from pipeline.utils.errors import UserError

MUNIT = {
    "method": {"type": "munit"},
    "generator": {"width": 4, "downs": 1, "blocks": 1, "style_downs": 2, "style_size": 3, "mlp_width": 8},
}


PREPROCESS = {"size": 32, "spacing_mm": {"in_plane": 1.0, "through_plane": 1.0}}


@pytest.fixture(scope="module")
def munit(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("munit") / "latest.pt", MUNIT | {"preprocess": PREPROCESS})


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A source, and two references that differ in more than brightness."""
    folder = tmp_path_factory.mktemp("volumes")
    source, first = write_volume(folder / "source.nii.gz", 1), write_volume(folder / "first.nii.gz", 2)
    image = nib.load(first)
    bright_outside = image.get_fdata() * np.linspace(0.2, 3, image.shape[0])[:, None, None]
    second = folder / "second.nii.gz"
    nib.save(nib.Nifti1Image(bright_outside.astype(np.float32), image.affine), second)
    return source, first, second


def run(model, source, out, *more):
    arguments = ["-i", source, "-o", out, "--model", model, "--to", "T2", "--device", "cpu", *more]
    return main([str(argument) for argument in arguments])


def test_the_style_of_a_reference_shows_in_the_output(munit, volumes, tmp_path):
    source, *references = volumes
    outputs = []
    for number, more in enumerate([(), *(("--style", reference) for reference in references)]):
        out = tmp_path / f"{number}.nii.gz"
        assert run(munit, source, out, *more) == 0
        outputs.append(nib.load(out))
    arrays = [image.get_fdata() for image in outputs]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(arrays[first], arrays[second])
    assert all(np.array_equal(image.affine, nib.load(source).affine) for image in outputs)
    repeated = translate(source, munit, "T2", device="cpu", style=references[0])
    assert np.array_equal(repeated.get_fdata(), arrays[1])


def test_all_slices_share_one_style_which_is_the_mean_of_those_with_a_fair_share_of_head(munit, volumes):
    model = load_model(munit, "cpu")
    network = model.translators["T2"]
    scan = prepare_scan(volumes[2], model.settings, model.stride)
    share = scan.foreground.mean(axis=(1, 2))
    chosen = [index for index in range(len(share)) if share[index] >= 0.25 * share.max()]
    assert 0 < len(chosen) < np.count_nonzero(scan.occupied)  # slivers at the ends are left out
    with torch.no_grad():
        styles = [network.style_encoder(torch.from_numpy(scan.slices[[index]])[:, None])[0] for index in chosen]
    use_style_of(volumes[2], model, "T2")
    assert network.style.shape == (1, 3)
    torch.testing.assert_close(network.style[0], torch.stack(styles).mean(dim=0))
    assert not torch.allclose(styles[0], network.style[0])
    assert not model.translators["T1"].style.any()  # the other direction keeps its own


def only_line(capsys):
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == "" and line.startswith("error: ")
    return line


def test_a_reference_that_cannot_be_used_is_refused_in_one_line(munit, volumes, tmp_path, capsys):
    reference = tmp_path / "reference.nii"
    for content, reason in ((None, "no such file"), ("hello", "not a NIfTI volume but")):
        if content is not None:
            reference.write_text(content)
        assert run(munit, volumes[0], tmp_path / "out", "--style", reference) == 2
        assert only_line(capsys).startswith(f"error: {reference}: {reason}")
    assert not (tmp_path / "out").exists()


def test_a_style_that_the_network_cannot_make_is_one_line(munit, volumes, monkeypatch):
    model = load_model(munit, "cpu")
    network = model.translators["T2"]
    with torch.no_grad():
        next(network.style_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"first\.nii\.gz: no style can be taken from it: a style that is not finite"):
        use_style_of(volumes[1], model, "T2")

    def too_large(slices):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    monkeypatch.setattr(network, "encode_style", too_large)
    with pytest.raises(UserError) as caught:
        use_style_of(volumes[1], model, "T2")
    assert str(caught.value) == f"{volumes[1]}: no style can be taken from it: CUDA out of memory."
