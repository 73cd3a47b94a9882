"""Reading the next volume while the present one is translated changes nothing but the time."""

import threading
from pathlib import Path

import nibabel as nib
import numpy as np
from negative_model import negative_model, volume_at

from pipeline.inference.batch.batch import JobTranslator, Prefetcher, translate_jobs
from pipeline.inference.batch.jobs import Job
from pipeline.inference.batch.provenance import Provenance
from pipeline.inference.multi_view import MultiViewTranslator
from pipeline.inference.translator import translate


class Opener:
    """Opens jobs by name; fails for those in `errors`, once each; notes what was opened, and in the main thread."""

    def __init__(self, **errors):
        self.errors, self.opened, self.in_main_thread = errors, [], []

    def __call__(self, job):
        name = job.source.name
        self.opened.append(name)
        self.in_main_thread.append(threading.current_thread() is threading.main_thread())
        if (error := self.errors.pop(name, None)) is not None:
            raise error
        return name


def jobs_of(*names):
    return [Job(Path(name), Path("out") / name) for name in names]


def test_each_is_opened_once_and_all_but_the_first_while_the_one_before_is_translated():
    jobs, opener = jobs_of("a", "b", "c"), Opener()
    prefetcher = Prefetcher(opener, jobs)
    assert [prefetcher(job) for job in jobs] == ["a", "b", "c"]
    assert (opener.opened, opener.in_main_thread) == (["a", "b", "c"], [True, False, False])


def test_a_job_that_was_left_out_puts_nothing_in_anothers_place():
    jobs = jobs_of("a", "b", "c")
    prefetcher = Prefetcher(Opener(), jobs)
    assert (prefetcher(jobs[0]), prefetcher(jobs[2]), prefetcher(jobs[1])) == ("a", "c", "b")


def test_what_could_not_be_opened_ahead_for_want_of_memory_is_opened_when_there_may_be_room():
    jobs, opener = jobs_of("a", "b", "c"), Opener(b=MemoryError())
    prefetcher = Prefetcher(opener, jobs)
    assert [prefetcher(job) for job in jobs] == ["a", "b", "c"]
    assert sorted(opener.opened) == ["a", "b", "b", "c"]


def test_a_volume_that_is_refused_for_memory_while_another_is_there_has_its_turn(tmp_path, monkeypatch):
    sources = [volume_at(tmp_path / f"{name}.nii") for name in "ab"]
    events = []

    def free_memory(wanted):
        events.append(threading.current_thread() is threading.main_thread())
        return wanted if events[-1] else 0

    monkeypatch.setattr("transforms.io.nifti_checks.free_memory", free_memory)
    jobs = [Job(source, tmp_path / "out" / source.name) for source in sources]
    translator = JobTranslator(MultiViewTranslator((negative_model(),), "T2"), Provenance("T2", "", ""))
    prefetcher = Prefetcher(translator.open, jobs)
    assert [prefetcher(job)[0][0].name for job in jobs] == [str(source) for source in sources]
    assert events == [True, False, True]


def test_a_batch_read_ahead_is_the_batch_read_in_turn(tmp_path, monkeypatch):
    sources = [volume_at(tmp_path / f"{number}.nii.gz", seed=number) for number in range(4)]
    sources[1].write_bytes(sources[1].read_bytes()[:500])
    doubtful = nib.load(sources[2])
    voxels = doubtful.get_fdata(dtype=np.float32)
    voxels[0, 0, :5] = np.nan
    nib.save(nib.Nifti1Image(voxels, doubtful.affine), sources[2])
    translator = JobTranslator(MultiViewTranslator((negative_model(),), "T2"), Provenance("T2", "", ""))

    def outcome(folder):
        folder.mkdir()
        jobs = [Job(source, folder / source.name) for source in sources]
        translate_jobs(jobs, translator, quiet=True)
        contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        return [(job.status, len(job.warnings), job.error) for job in jobs], contents

    in_turn = outcome(tmp_path / "in turn")
    monkeypatch.setattr("pipeline.inference.batch.batch.READ_AHEAD", ("cpu",))
    assert outcome(tmp_path / "ahead") == in_turn
    statuses, warned, _ = zip(*in_turn[0], strict=True)
    assert statuses == ("translated", "failed", "translated", "translated") and warned == (0, 0, 1, 0)


def test_a_translation_as_source_is_translated_with_a_warning_and_a_scan_without(tmp_path):
    scan, translation = volume_at(tmp_path / "a.nii"), tmp_path / "a_T2.nii"
    of_run = tmp_path / "a_T1_to_T2.nii"  # as a run writes those of its test subjects, without a record
    translate(scan, negative_model(), "T2", of_run)
    translator = JobTranslator(MultiViewTranslator((negative_model(),), "T2"), Provenance("T2", "", ""))
    jobs = [Job(source, tmp_path / f"{index}.nii") for index, source in enumerate((scan, translation, of_run))]
    jobs[0].target = translation
    translate_jobs(jobs, translator, quiet=True)
    assert [job.status for job in jobs] == ["translated"] * 3 and jobs[0].warnings == []
    for job in jobs[1:]:
        assert f"{job.source}: is a translation itself, not a scan" in job.warnings
