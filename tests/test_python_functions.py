"""The Python functions as their page shows them."""

import doctest
import logging
import sys
from pathlib import Path

from small_run import QUICK, TINY, lookups_fitted_once, without_pictures
from small_volumes import write_volume

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "python.md"


def test_the_page_of_the_python_functions_says_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("pipeline"), "handlers", [])
    write_volume(tmp_path / "scan_t1.nii.gz")
    small = [*TINY, *QUICK, "evaluation.uncertainty=false", "evaluation.translate=false"]
    names = {"small": [option for option in small if not option.startswith(("training.epochs", "training.decay"))]}
    options = {"globs": names, "optionflags": doctest.ELLIPSIS}
    with without_pictures(), lookups_fitted_once():
        failures, examples = doctest.testfile(str(PAGE), module_relative=False, **options)
    assert examples > 5 and failures == 0


def test_a_module_that_is_called_stays_a_module(monkeypatch):
    import pipeline.translate
    from pipeline import translate

    calls = []
    monkeypatch.setattr("pipeline.inference.translator.translate", lambda *arguments, **options: calls.append(options))
    translate("a", "b", to="T2")
    assert calls == [{"to": "T2"}]
    assert translate is pipeline.translate is sys.modules["pipeline.translate"] and callable(translate.main)


def test_a_name_that_the_package_lacks_is_an_attribute_error():
    import pipeline

    assert not hasattr(pipeline, "tarnslate")
