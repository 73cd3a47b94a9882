import ixi_like
import nibabel as nib
import numpy as np
import pytest
import torch
from negative_model import model_of
from torch import nn

from pipeline.inference.translator import translate
from pipeline.utils.errors import UserError
from transforms.intensity import foreground_mask
from transforms.slice_chain import CHAIN_VERSION


def own_range(image):
    """The range of the foreground: what a model of these settings maps to -1 and 1."""
    data = np.asarray(image.dataobj, np.float32)
    inside = data[foreground_mask(data)]
    return float(inside.min()), float(inside.max())


class Recorder(nn.Module):
    """Passes slices on and remembers the shapes of the batches."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, slices):
        self.shapes.append(tuple(slices.shape))
        return slices


@pytest.mark.parametrize("make", [ixi_like.ixi_t1, ixi_like.ixi_t2])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("size", [16, 32, 80])  # smaller than the slices, and larger
def test_a_network_that_changes_nothing_returns_the_volume(make, axis, size):
    source = make(scale=8)
    low, high = own_range(source)
    out = translate(source, model_of(nn.Identity(), low, high, axis=axis, size=size), "T2")
    expected = np.clip(np.asarray(source.dataobj, np.float32), low, high)
    np.testing.assert_allclose(out.get_fdata(), expected, atol=1e-3)
    assert np.array_equal(out.affine, source.affine)
    assert out.shape == source.shape


def test_ixi_files_return_on_their_own_grids_to_the_last_integer(tmp_path):
    for path in ixi_like.write_ixi(tmp_path, scale=4):
        source = nib.load(path)
        low, high = own_range(source)
        out = translate(path, model_of(nn.Identity(), low, high, size=256, integer=True), "T2")
        assert np.array_equal(out.affine, source.affine)
        expected = np.clip(np.asarray(source.dataobj), low, high)
        slicewise = tuple(np.flatnonzero(np.array(nib.aff2axcodes(source.affine))[:, None] != ["S"]))  # in each slice
        empty = (expected <= low + 0.25 * (high - low)).all(axis=slicewise, keepdims=True)
        assert np.array_equal(np.asarray(out.dataobj), np.where(empty, low, expected))


@pytest.mark.parametrize("make", [ixi_like.ixi_t1, ixi_like.ixi_t2])
def test_resampling_there_and_back_shifts_and_flips_nothing(make):
    source = make(scale=4)
    low, high = own_range(source)
    model = model_of(nn.Identity(), low, high, spacing_mm=(3.0, 4.0), size=96)
    out = translate(source, model, "T2").get_fdata()
    data = source.get_fdata()

    def difference(moved):
        return np.abs(moved - data).mean()

    moved = [np.flip(out, axis) for axis in range(3)]
    moved += [np.roll(out, step, axis) for axis in range(3) for step in (-1, 1)]
    assert difference(out) < 0.03 * (high - low)
    assert all(difference(out) < 0.95 * difference(other) for other in moved)


def test_the_network_sees_slices_as_training_did_and_nothing_is_cropped():
    recorder = Recorder()
    source = ixi_like.ixi_t2(scale=8)  # 32×32×17
    translate(source, model_of(recorder, size=48), "T2", batch_size=10)
    translate(source, model_of(recorder, size=24), "T2", batch_size=10)
    assert recorder.shapes == [(10, 1, 48, 48), (5, 1, 48, 48), (10, 1, 32, 32), (5, 1, 32, 32)]  # two show only air


def test_translated_intensities_are_those_of_the_target_cohort():
    class Constant(nn.Module):
        def forward(self, slices):
            return torch.full_like(slices, 0.5)

    out = translate(ixi_like.ixi_t1(scale=8), model_of(Constant(), 100.0, 900.0, integer=True), "T2")
    assert out.get_data_dtype() == np.int16
    assert np.unique(out.dataobj).tolist() == [100, 700]  # -1 is 100, as in slices of air, and 1 is 900
    assert out.header["descrip"].item() == b"not for clinical use; synthetic T2, test model"


def test_the_batch_size_does_not_matter():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 1, 3, padding=1), nn.Tanh()
    )
    source = ixi_like.ixi_t1(scale=8)
    model = model_of(network, -1.0, 1.0)
    single_slices, seven, all_at_once = (translate(source, model, "T2", batch_size=n).get_fdata() for n in (1, 7, 500))
    assert single_slices.std() > 0.01
    np.testing.assert_allclose(seven, single_slices, atol=1e-5)
    np.testing.assert_allclose(all_at_once, single_slices, atol=1e-5)


def test_a_bad_volume_is_one_line_with_its_name(tmp_path):
    with pytest.raises(UserError, match=r"none\.nii: no such file"):
        translate(tmp_path / "none.nii", model_of(nn.Identity()), "T2")
    nearly_flat = np.zeros((20, 20, 20), np.float32)
    nearly_flat[5:15, 5:15, 5:15] = 1
    nib.save(nib.Nifti1Image(nearly_flat, np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(UserError, match=r"flat\.nii: percentiles 0 and 100 .* \(1,000 voxels\) are both 1,") as caught:
        translate(tmp_path / "flat.nii", model_of(nn.Identity()), "T2")
    assert "\n" not in str(caught.value) and "key" not in str(caught.value)
    nearly_flat[0] = -3e38  # what some programs fill the air with
    with pytest.raises(UserError, match=r"both 1, .*\(doubtful before: 400 NaN or infinite voxels were"):
        translate(nib.Nifti1Image(nearly_flat, np.eye(4)), model_of(nn.Identity()), "T2")


def test_an_image_in_memory_stays_as_it_is():
    voxels = np.zeros((20, 20, 20), np.float32)
    voxels[2:-2, 2:-2, 2:-2] = np.random.default_rng(0).uniform(50, 100, (16, 16, 16))
    voxels[0, 0, 0] = voxels[-1, -1, -1] = 1  # so that the box of the head is all that was scanned
    image = nib.Nifti1Image(voxels.copy(), np.diag([5.0, 5.0, 5.0, 1.0]))
    translate(image, model_of(nn.Identity(), version=CHAIN_VERSION), "T2")
    assert np.array_equal(image.dataobj, voxels)


def test_a_source_as_output_is_refused_before_anything_is_read(tmp_path):
    path, link = tmp_path / "a.nii", tmp_path / "link.nii"
    nib.save(ixi_like.ixi_t1(scale=16), path)
    link.symlink_to(path)
    before = path.read_bytes()
    for source, output in ((path, path), (str(path), link), (link, str(path)), (nib.load(path), path)):
        with pytest.raises(UserError, match=r"\.nii: would overwrite the source; choose another output"):
            translate(source, tmp_path / "no model", "T2", output)
    assert path.read_bytes() == before


def test_a_network_that_diverged_is_reported():
    class Broken(nn.Module):
        def forward(self, slices):
            return slices * torch.nan

    with pytest.raises(UserError, match="the network's output is not finite"):
        translate(ixi_like.ixi_t1(scale=8), model_of(Broken()), "T2")


class Hungry(nn.Module):
    """Fails as an allocator does on more than `most` slices; notes how many it was given."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error, self.batches = most, error, []

    def forward(self, slices):
        self.batches.append(len(slices))
        if len(slices) > self.most:
            raise self.error
        return -slices


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "mps", "python"])
def test_too_little_memory_halves_the_batch_and_says_so(error, caplog):
    source, network = ixi_like.ixi_t1(scale=8), Hungry(2, error)
    translated = translate(source, model_of(network), "T2")
    assert "cpu had too little memory for 8 slices at once, went on with 2" in caplog.text
    assert network.batches[:4] == [8, 4, 2, 2] and set(network.batches[4:]) <= {1, 2}
    plain = translate(source, model_of(Hungry(100, error)), "T2")
    assert np.array_equal(translated.dataobj, plain.dataobj)


def test_too_little_memory_for_one_slice_is_an_error_that_names_volume_and_remedy():
    network = Hungry(0, MemoryError())
    with pytest.raises(UserError, match="image: cpu has too little memory for a single slice at a time; end what"):
        translate(ixi_like.ixi_t1(scale=8), model_of(network), "T2")
    assert network.batches == [8, 4, 2, 1]


def test_other_errors_of_a_network_are_not_taken_for_memory():
    network = Hungry(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        translate(ixi_like.ixi_t1(scale=8), model_of(network), "T2")
    assert network.batches == [8]
