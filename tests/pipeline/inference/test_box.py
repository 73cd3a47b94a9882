from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline import box, load_model, translate
from pipeline.config.load import load_config
from pipeline.data.sources.phantom import make_subject
from pipeline.data.sources.phantom_anatomy import grid
from pipeline.inference.model_address import BOX_FILE, checkpoint_at
from pipeline.translate import main
from pipeline.utils.errors import UserError

SPACING_MM = 4.0


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A synthetic head as files, by contrast."""
    folder, (_, affine) = tmp_path_factory.mktemp("scans"), grid(SPACING_MM)
    paths = {}
    for contrast, volume in make_subject(3, 1, SPACING_MM, ("T1", "T2")).items():
        paths[contrast] = folder / f"{contrast}.nii.gz"
        nib.save(nib.Nifti1Image(volume, affine), paths[contrast])
    return paths


def test_the_file_is_small_and_holds_tensors_and_plain_values_without_a_path():
    assert BOX_FILE.stat().st_size <= 2_000_000
    content = torch.load(BOX_FILE, weights_only=True)  # refuses whatever would need code
    assert {tensor.dtype for state in content["translators"].values() for tensor in state.values()} == {torch.float16}
    assert content["config"]["data"]["source"] == "phantom" and content["config"]["data"]["folder"] == "data/phantom"
    assert content["config"] == load_config(Path("box"), warn=False).model_dump(mode="json")


@pytest.mark.parametrize(("source", "to"), [("T1", "T2"), ("T2", "T1")])
def test_it_translates_a_head_nearer_to_the_real_scan_than_the_source_is(scans, source, to):
    image = translate(scans[source], box("cpu"), to=to)
    images = {"real": nib.load(scans[to]), "copy": nib.load(scans[source]), "made": image}
    values = {name: np.asanyarray(one.dataobj).astype(float).ravel() for name, one in images.items()}
    head = values["real"] > 0.15 * np.percentile(values["real"], 99)
    copied, made = (np.corrcoef(values["real"][head], values[name][head])[0, 1] for name in ("copy", "made"))
    assert made > max(0.5, copied + 0.2)


def test_its_address_is_its_name_unless_a_path_is_called_so(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model("box", "cpu").identity("T2") == box("cpu").identity("T2")
    assert main(["-i", str(scans["T1"]), "-o", "made.nii.gz", "--model", "box", "--to", "T2", "--quiet"]) == 0
    assert Path("made.nii.gz").is_file()
    Path("box").mkdir()
    assert box("cpu").identity("T2") == load_model(BOX_FILE, "cpu").identity("T2")
    with pytest.raises(UserError, match="box: no checkpoint in this folder"):
        checkpoint_at(Path("box"))


def test_it_has_no_map_of_expected_errors(scans, tmp_path, capsys):
    output = tmp_path / "made.nii.gz"
    assert main(["-i", str(scans["T1"]), "-o", str(output), "--model", "box", "--to", "T2", "--uncertainty"]) == 2
    assert "the model in the box has no map of expected errors; leave --uncertainty out" in capsys.readouterr().err
