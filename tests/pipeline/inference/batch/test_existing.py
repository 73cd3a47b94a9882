"""What stands in a volume's place from an earlier command is not taken for something else."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from negative_model import run, volume_at
from nibabel import Nifti1Image
from terminal import Terminal

from pipeline.inference.batch.existing import MIN_PROGRESS_FILES, is_whole, pending_jobs
from pipeline.inference.batch.jobs import FAILED, NOT_DONE, SKIPPED, Job
from pipeline.inference.batch.provenance import Provenance, write_record
from pipeline.inference.output_volume import write_volume
from pipeline.translate import main
from transforms.io.nifti import VolumeError, read_nifti


def test_a_volume_of_another_contrast_is_not_taken_for_the_one_that_is_asked_for(tmp_path, model, capsys):
    source, target = volume_at(tmp_path / "a.nii"), tmp_path / "out" / "a.nii"
    assert main(["-i", str(source), "-o", str(target.parent), "--model", "any", "--to", "T1"]) == 0
    other = target.read_bytes()
    assert run("-i", source, "-o", target.parent) == 2
    assert f"{target} holds a synthetic T1; choose another OUT, or add --overwrite" in capsys.readouterr().err
    assert target.read_bytes() == other
    assert run("-i", source, "-o", target.parent, "--overwrite") == 0
    assert target.read_bytes() != other
    assert run("-i", source, "-o", target.parent) == 0  # and now it is


def test_many_volumes_are_looked_at_together_with_progress_and_each_gets_its_own_answer(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    count = MIN_PROGRESS_FILES
    jobs = [Job(tmp_path / f"{index}.nii", tmp_path / f"out{index}.nii") for index in range(count)]
    image = nib.load(volume_at(tmp_path / "a.nii"))
    write_record(image, Provenance("T2", "0123456789ab", ""))
    whole = image.to_bytes()
    for index, job in enumerate(jobs[1:], 1):
        job.target.write_bytes(whole if index % 3 else whole[:-1])
    assert pending_jobs(jobs, overwrite=False) == jobs[::3]
    assert [job.status for job in jobs] == [SKIPPED if index % 3 else NOT_DONE for index in range(count)]
    assert "what is there" not in terminal.taken()  # one too few
    jobs[0].target.write_bytes(whole)
    for job in jobs:
        job.status = NOT_DONE
    assert pending_jobs(jobs, overwrite=False) == jobs[3::3]
    assert "what is there: 100%" in terminal.taken()
    failed = Job(tmp_path / "a.nii", tmp_path / "none.nii", status=FAILED)
    assert pending_jobs([*jobs, failed], overwrite=True, quiet=True) == jobs[3::3]


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    """A translation as we write it: its path, and its bytes."""
    voxels = np.random.default_rng(0).integers(0, 900, (20, 21, 22)).astype(np.int16)
    path = tmp_path_factory.mktemp("earlier") / "made.nii.gz"
    write_volume(Nifti1Image(voxels, np.eye(4)), path)
    return path, path.read_bytes()


@pytest.mark.parametrize("cut", [1, 8, 9, 1000])
def test_a_compressed_volume_that_lacks_any_of_its_last_bytes_is_not_whole(zipped, cut):
    path, content = zipped
    path.write_bytes(content[:-cut])
    with pytest.raises(VolumeError):  # nobody could read it, so it must not be skipped
        read_nifti(path)
    assert not is_whole(path)


def test_a_compressed_volume_is_whole_as_we_write_it_and_not_with_a_bit_turned(zipped):
    path, content = zipped
    path.write_bytes(content)
    assert is_whole(path)
    for position in (len(content) // 2, len(content) - 6, len(content) - 1):  # the voxels, their checksum, their length
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert not is_whole(path), position


def test_a_compressed_volume_of_fewer_voxels_than_its_header_says_is_not_whole(tmp_path):
    whole = volume_at(tmp_path / "a.nii").read_bytes()
    short = tmp_path / "short.nii.gz"
    short.write_bytes(gzip.compress(whole[:-2]))  # an intact stream
    assert not is_whole(short)
    short.write_bytes(gzip.compress(whole[:-2]) + gzip.compress(whole[-2:]))  # in two members
    assert is_whole(short)
