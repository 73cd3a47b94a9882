from collections import Counter

from small_run import QUICK, phantom_run

import pipeline.data.pairs as pairs_module
import pipeline.evaluation.translation_writer as writer_module


def test_each_test_image_is_read_and_translated_once_for_scores_volumes_and_viewer(tmp_path, monkeypatch):
    read, translated = Counter(), Counter()
    prepare, send = pairs_module.prepare_scan, writer_module.translate_slices

    def counted_prepare(path, *more):
        read[path.name] += 1
        return prepare(path, *more)

    def counted_send(slices, network, *more, **options):
        translated[id(network)] += 1
        return send(slices, network, *more, **options)

    monkeypatch.setattr(pairs_module, "prepare_scan", counted_prepare)
    monkeypatch.setattr(writer_module, "translate_slices", counted_send)
    monkeypatch.setattr(writer_module, "is_fetched", lambda: True)  # as if its package were installed
    assert phantom_run(tmp_path / "run", *QUICK, "training.steps_per_epoch=1", "training.decay_epochs=0") == 0
    names = sorted(path.name for path in (tmp_path / "run" / "translated").iterdir())
    assert len(names) == 2
    assert [read[f"{name.partition('_to_')[0]}.nii.gz"] for name in names] == [1, 1]
    assert sorted(translated.values()) == [1, 1]
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_what_a_killed_run_left_half_written_goes_when_the_run_is_taken_up(tmp_path):
    run = tmp_path / "run"
    (run / "mosaics").mkdir(parents=True)
    settings = (*QUICK, "training.steps_per_epoch=1", "training.decay_epochs=0", "evaluation.translate=false")
    (run / "mosaics").rmdir()
    assert phantom_run(run, *settings) == 0
    (run / "mosaics").mkdir()
    half = run / "mosaics" / ".tmp-0123456789abcdef.png"
    half.write_bytes(b"half")
    assert phantom_run(run, *settings) == 0
    assert not half.exists()


ONE_STEP = ("training.steps_per_epoch=1", "training.decay_epochs=0")


def test_an_unexpected_error_costs_one_picture_and_never_the_scores(tmp_path, monkeypatch, capsys):
    mosaics, draw = [], writer_module.volume_mosaic

    def first_fails(*volumes, **options):
        mosaics.append(1)
        if len(mosaics) == 1:
            raise ZeroDivisionError("no pixels")
        return draw(*volumes, **options)

    def fails(*_, **__):
        raise IndexError("no slice")

    monkeypatch.setattr(writer_module, "volume_mosaic", first_fails)
    monkeypatch.setattr(writer_module, "is_fetched", lambda: True)
    monkeypatch.setattr(writer_module, "viewed_subject", fails)
    assert phantom_run(tmp_path / "run", *QUICK, *ONE_STEP) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sum(line.endswith(": left out of the translations (no pixels); its scores stand") for line in lines) == 1
    assert sum(line.endswith(": left out of the viewer (no slice); its scores stand") for line in lines) == 2
    assert all((tmp_path / "run" / name).is_file() for name in ("scores.json", "report.html", "run.json"))
    assert len(list((tmp_path / "run" / "mosaics").iterdir())) == 1


def test_a_translation_that_fails_in_the_evaluation_names_the_file(tmp_path, monkeypatch):
    names, send = [], writer_module.translate_slices

    def noted(*more, name, **options):
        names.append(name)
        return send(*more, name=name, **options)

    monkeypatch.setattr(writer_module, "translate_slices", noted)
    assert phantom_run(tmp_path / "run", *QUICK, *ONE_STEP, "evaluation.translate=false") == 0
    assert len(names) == 2 and all(name.endswith(".nii.gz") and "phantom" in name for name in names)
