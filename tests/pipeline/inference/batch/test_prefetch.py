import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from negative_model import negative_model, volume_at

from pipeline.inference.batch.batch import job_opener, job_translator, translate_jobs
from pipeline.inference.batch.jobs import Job
from pipeline.inference.batch.prefetch import Prefetcher
from pipeline.inference.multi_view import MultiViewTranslator
from pipeline.utils.errors import UserError


def jobs_of(*names):
    return [Job(Path(name), Path("out") / name) for name in names]


def test_each_is_opened_once_and_all_but_the_first_while_the_one_before_is_translated():
    jobs, opened = jobs_of("a", "b", "c"), []

    def open_job(job):
        opened.append((job.source.name, threading.current_thread() is threading.main_thread()))
        return job.source.name

    ahead = Prefetcher(open_job, jobs)
    for job in jobs:
        assert ahead(job) == job.source.name
        if ahead._opening is not None:
            ahead._opening.thread.join()
    assert opened == [("a", True), ("b", False), ("c", False)]


def test_what_is_wrong_with_a_volume_is_said_once_when_it_is_its_turn():
    opened = []

    def open_job(job):
        opened.append(job.source.name)
        if job.source.name == "b":
            raise UserError("b: broken")
        return job.source.name

    jobs = jobs_of("a", "b", "c")
    ahead = Prefetcher(open_job, jobs)
    assert ahead(jobs[0]) == "a"
    with pytest.raises(UserError, match="b: broken"):
        ahead(jobs[1])
    assert ahead(jobs[2]) == "c" and opened == ["a", "b", "c"]


def test_a_job_that_was_left_out_puts_nothing_in_anothers_place():
    jobs = jobs_of("a", "b", "c")
    ahead = Prefetcher(lambda job: job.source.name, jobs)
    assert (ahead(jobs[0]), ahead(jobs[2]), ahead(jobs[1])) == ("a", "c", "b")


def test_a_batch_read_ahead_is_the_batch_read_in_turn(tmp_path):
    sources = [volume_at(tmp_path / f"{number}.nii.gz", seed=number) for number in range(4)]
    sources[1].write_bytes(sources[1].read_bytes()[:500])
    doubtful = nib.load(sources[2])
    voxels = doubtful.get_fdata(dtype=np.float32)
    voxels[0, 0, :5] = np.nan
    nib.save(nib.Nifti1Image(voxels, doubtful.affine), sources[2])
    views, outcomes = MultiViewTranslator((negative_model(),), "T2"), {}
    for name in ("in turn", "ahead"):
        jobs = [Job(source, tmp_path / name / source.name) for source in sources]
        (tmp_path / name).mkdir()
        opened = Prefetcher(job_opener(views), jobs) if name == "ahead" else None
        translate_jobs(jobs, job_translator(views, None, opened), quiet=True)
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        images = [np.asarray(nib.load(tmp_path / name / file).dataobj) for file in files]
        outcomes[name] = [(job.status, job.warnings, job.error) for job in jobs], files, images
    assert outcomes["ahead"][:2] == outcomes["in turn"][:2]
    assert all(np.array_equal(*pair) for pair in zip(outcomes["ahead"][2], outcomes["in turn"][2], strict=True))
    statuses, warned = zip(*((status, bool(warnings)) for status, warnings, _ in outcomes["ahead"][0]), strict=True)
    assert statuses == ("translated", "failed", "translated", "translated") and warned == (False, False, True, False)


def test_what_could_not_be_opened_ahead_is_opened_when_there_may_be_room():
    opened = []

    def open_job(job):
        opened.append(job.source.name)
        if opened.count("b") == 1 and job.source.name == "b":
            raise MemoryError
        return job.source.name

    jobs = jobs_of("a", "b", "c")
    ahead = Prefetcher(open_job, jobs)
    assert [ahead(job) for job in jobs] == ["a", "b", "c"]
    assert sorted(opened) == ["a", "b", "b", "c"]


def test_a_volume_that_is_refused_for_memory_while_another_is_there_has_its_turn(tmp_path, monkeypatch):
    first, second = (volume_at(tmp_path / f"{name}.nii") for name in "ab")
    events = []

    def free_memory(wanted):
        events.append(threading.current_thread() is threading.main_thread())
        return wanted if events[-1] else 0

    monkeypatch.setattr("transforms.io.nifti_checks.free_memory", free_memory)
    jobs = [Job(source, tmp_path / "out" / source.name) for source in (first, second)]
    ahead = Prefetcher(job_opener(MultiViewTranslator((negative_model(),), "T2")), jobs)
    assert [ahead(job).volumes[0].name for job in jobs] == [str(first), str(second)]
    assert events == [True, False, True]


def test_analyze_pairs_are_opened_in_turn():
    opened = {}

    def open_job(job):
        opened[job.source.name] = threading.current_thread() is threading.main_thread()
        return job.source.name

    jobs = jobs_of("a.nii", "b.hdr", "c.IMG", "d.nii")
    ahead = Prefetcher(open_job, jobs)
    assert [ahead(job) for job in jobs] == ["a.nii", "b.hdr", "c.IMG", "d.nii"]
    assert opened == {"a.nii": True, "b.hdr": True, "c.IMG": True, "d.nii": False}


def test_an_interruption_begins_nothing_more():
    def open_job(job):
        raise KeyboardInterrupt

    jobs = jobs_of("a", "b")
    ahead = Prefetcher(open_job, jobs)
    with pytest.raises(KeyboardInterrupt):
        ahead(jobs[0])
    assert ahead._opening is None


def test_a_process_does_not_wait_for_what_was_begun_in_vain():
    code = (
        "import sys, time; from pathlib import Path; from pipeline.inference.batch.prefetch import Prefetcher; "
        "from pipeline.inference.batch.jobs import Job; jobs = [Job(Path(n), Path(n)) for n in 'ab']; "
        "Prefetcher(lambda job: time.sleep(60 if job is jobs[1] else 0), jobs)(jobs[0]); sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 3
