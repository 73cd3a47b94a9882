from collections import Counter

import pytest
from small_run import QUICK, phantom_run, without_pictures

import pipeline.data.pairs as pairs_module
import pipeline.evaluation.translation_writer as writer_module

ONE_STEP = ("training.steps_per_epoch=1", "training.decay_epochs=0", "evaluation.uncertainty=false")


@pytest.fixture(autouse=True)
def quick():
    with without_pictures():
        yield


def test_an_unexpected_error_costs_one_picture_and_never_the_scores_and_the_next_evaluation_makes_up_for_it(
    tmp_path, monkeypatch, capsys
):
    mosaics, draw = [], writer_module.volume_mosaic

    def first_fails(*volumes, **options):
        mosaics.append(1)
        if len(mosaics) == 1:
            raise ZeroDivisionError("no pixels")
        return draw(*volumes, **options)

    def fails(*_, **__):
        raise IndexError("no slice")

    run = tmp_path / "run"
    monkeypatch.setattr(writer_module, "is_fetched", lambda: True)  # as if its package were installed
    with monkeypatch.context() as patched:
        patched.setattr(writer_module, "volume_mosaic", first_fails)
        patched.setattr(writer_module, "viewed_subject", fails)
        assert phantom_run(run, *QUICK, *ONE_STEP) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sum(line.endswith(": left out of the translations (no pixels); its scores stand") for line in lines) == 1
    assert sum(line.endswith(": left out of the viewer (no slice); its scores stand") for line in lines) == 2
    assert all((run / name).is_file() for name in ("scores.json", "report.html", "run.json"))
    assert len(list((run / "mosaics").iterdir())) == 1

    # What a killed run left half written goes when the run is taken up; each image is read and translated once.
    (run / "mosaics" / ".tmp-0123456789abcdef.png").write_bytes(b"half")
    read, translated = Counter(), Counter()
    prepare, send = pairs_module.prepare_scan, writer_module.translate_slices

    def counted_prepare(path, *more):
        read[path.name] += 1
        return prepare(path, *more)

    def counted_send(*more, name, **options):
        translated[name.rpartition("/")[2]] += 1
        return send(*more, name=name, **options)

    monkeypatch.setattr(pairs_module, "prepare_scan", counted_prepare)
    monkeypatch.setattr(writer_module, "translate_slices", counted_send)
    assert phantom_run(run, *QUICK, *ONE_STEP) == 0
    sources = [f"{path.name.partition('_to_')[0]}.nii.gz" for path in (run / "translated").iterdir()]
    assert len(sources) == 2 and translated == dict.fromkeys(sources, 1)
    assert [read[name] for name in sources] == [1, 1]
    assert len(list((run / "mosaics").iterdir())) == 2 and not list(run.glob(".tmp-*"))
