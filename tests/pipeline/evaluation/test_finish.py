from collections import Counter

from small_run import QUICK, phantom_run

import pipeline.data.pairs as pairing
import pipeline.evaluation.translation_writer as gallery
import pipeline.evaluation.viewer_volumes as viewing
from pipeline.utils.files import _MACHINE


def test_each_test_image_is_read_and_translated_once_for_scores_volumes_and_viewer(tmp_path, monkeypatch):
    read, translated = Counter(), Counter()
    prepare, send = pairing.prepare_scan, gallery.translate_slices

    def counted_prepare(path, *more):
        read[path.name] += 1
        return prepare(path, *more)

    def counted_send(slices, network, *more, **named):
        translated[id(network)] += 1
        return send(slices, network, *more, **named)

    monkeypatch.setattr(pairing, "prepare_scan", counted_prepare)
    monkeypatch.setattr(gallery, "translate_slices", counted_send)
    monkeypatch.setattr(viewing, "is_fetched", lambda: True)  # whose package need not be there: candidates are kept
    assert phantom_run(tmp_path / "run", *QUICK, "training.steps_per_epoch=1", "training.decay_epochs=0") == 0
    made = sorted(path.name for path in (tmp_path / "run" / "translated").iterdir())
    assert len(made) == 2
    assert [read[f"{name.partition('_to_')[0]}.nii.gz"] for name in made] == [1, 1]
    assert sorted(translated.values()) == [1, 1]
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_what_a_killed_run_left_half_written_goes_when_the_run_is_taken_up(tmp_path):
    run = tmp_path / "run"
    (run / "mosaics").mkdir(parents=True)
    settings = (*QUICK, "training.steps_per_epoch=1", "training.decay_epochs=0", "evaluation.translate=false")
    (run / "mosaics").rmdir()
    assert phantom_run(run, *settings) == 0
    (run / "mosaics").mkdir()
    half = run / "mosaics" / f".tmp-4194305-{_MACHINE}abcd1234.png"  # beyond the largest number of a process
    half.write_bytes(b"half")
    assert phantom_run(run, *settings) == 0
    assert not half.exists()


ONE_STEP = ("training.steps_per_epoch=1", "training.decay_epochs=0")


def test_an_unexpected_error_costs_one_picture_and_never_the_scores(tmp_path, monkeypatch, capsys):
    drawn, draw = [], gallery.volume_mosaic

    def first_fails(*volumes, **named):
        drawn.append(1)
        if len(drawn) == 1:
            raise ZeroDivisionError("no pixels")
        return draw(*volumes, **named)

    def fails(*_, **__):
        raise IndexError("no slice")

    monkeypatch.setattr(gallery, "volume_mosaic", first_fails)
    monkeypatch.setattr(viewing, "is_fetched", lambda: True)
    monkeypatch.setattr(viewing, "viewed_subject", fails)
    assert phantom_run(tmp_path / "run", *QUICK, *ONE_STEP) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sum(line.endswith(": no translation or no picture of it (no pixels)") for line in said) == 1
    assert sum(line.endswith(": left out of the viewer (no slice); its scores stand") for line in said) == 2
    assert all((tmp_path / "run" / name).is_file() for name in ("scores.json", "report.html", "run.json"))
    assert len(list((tmp_path / "run" / "mosaics").iterdir())) == 1


def test_a_translation_that_fails_in_the_evaluation_names_the_file(tmp_path, monkeypatch):
    names, send = [], gallery.translate_slices

    def noted(*more, name, **named):
        names.append(name)
        return send(*more, name=name, **named)

    monkeypatch.setattr(gallery, "translate_slices", noted)
    assert phantom_run(tmp_path / "run", *QUICK, *ONE_STEP, "evaluation.translate=false") == 0
    assert len(names) == 2 and all(name.endswith(".nii.gz") and "phantom" in name for name in names)
