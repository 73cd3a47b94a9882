"""The tutorial: what it shows happens, and its notebook is its script."""

import importlib.util
import json
import re
import runpy
from pathlib import Path

from monai.utils import set_determinism
from small_run import lookups_fitted_once, without_pictures

ROOT = Path(__file__).parents[1]


def notebook_module():
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tutorial_translates_better_than_a_copy(tmp_path, monkeypatch, capsys):
    working, temporary = tmp_path / "working", tmp_path / "temporary"
    working.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    script = (ROOT / "docs" / "tutorial" / "tutorial.py").read_text(encoding="utf-8")
    shorter = {
        "for epoch in range(2):": "for epoch in range(1):",  # after one pass the figures have a margin
        "steps_per_epoch: 60,": "steps_per_epoch: 2,",  # of a run whose figures are not looked at
    }
    for text, short in shorter.items():
        assert script.count(text) == 1
        script = script.replace(text, short)
    (tmp_path / "tutorial.py").write_text(script)
    try:
        with without_pictures(), lookups_fitted_once():
            runpy.run_path(str(tmp_path / "tutorial.py"))["workshop"].cleanup()  # which Python would do as it ends
    finally:
        set_determinism(None)
    printed = capsys.readouterr().out
    figures = re.findall(r"^(T\d to T\d, \w+): PSNR ([\d.]+) dB, SSIM ([\d.]+);", printed, re.MULTILINE)
    scores = {name: (float(psnr), float(ssim)) for name, psnr, ssim in figures}
    for direction in ("T1 to T2", "T2 to T1"):
        copy, translation = scores[f"{direction}, copy"], scores[f"{direction}, translation"]
        assert translation[0] > copy[0] + 2, scores  # the contrast is turned
    assert scores["T2 to T1, translation"][1] > scores["T2 to T1, copy"][1] + 0.1
    assert printed.splitlines()[-1] == "True True"  # a report, and a volume on the source's grid
    assert list(working.iterdir()) == list(temporary.glob("tmp*")) == []  # nothing of it stays


def test_the_notebook_is_the_script():
    notebook = notebook_module()
    expected = notebook.notebook_of(notebook.SCRIPT.read_text(encoding="utf-8"))
    assert json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8")) == expected, "run python docs/_notebook.py"


def test_a_script_becomes_cells_a_notebook_and_a_page():
    notebook = notebook_module()
    script = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n\n# a comment\ny = 2\n"
    code = "x = 1\n\n\n# a comment\ny = 2"
    assert notebook.cells_of(script) == [(True, "# Title\n\nText."), (False, code)]
    assert notebook.page_of(script) == f"# Title\n\nText.\n\n```python\n{code}\n```\n"
    text, cell = notebook.notebook_of(script)["cells"]
    assert text["source"] == ["# Title\n", "\n", "Text."] and "outputs" not in text
    assert "".join(cell["source"]) == code and cell["outputs"] == []
