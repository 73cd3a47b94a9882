"""Folders of runs that have trained nothing yet."""

import pytest

from pipeline.config.load import load_config, resolved_yaml
from pipeline.config.schema import Config
from pipeline.run_config import open_run_folder, save_config
from pipeline.utils.errors import UserError


def config(tmp_path, **changes):
    return Config.model_validate(
        {"name": "small", "data": {"source": "phantom"}, "output": tmp_path / "run", **changes}
    )


def begun(tmp_path):
    """Return the folder of a run that has saved nothing but its configuration."""
    folder = open_run_folder(config(tmp_path))
    save_config(folder, config(tmp_path))
    return folder


def refusal(tmp_path, **changes):
    with pytest.raises(UserError) as caught:
        open_run_folder(config(tmp_path, **changes))
    return str(caught.value)


def test_where_nothing_is_trained_yet_every_setting_may_change(tmp_path):
    folder = begun(tmp_path)
    changed = {"seed": 1, "training": {"learning_rate": 1e-5}, "split": {"seed": 3}, "generator": {"width": 8}}
    assert open_run_folder(config(tmp_path, **changed)) == folder and not folder.has_trained()
    folder.scores.write_text("{}")  # the checkpoints were thrown away, the results were not
    assert folder.has_trained() and not folder.has_checkpoint()
    assert "seed: 0 there, 1 now" in refusal(tmp_path, **changed)
    assert "training.start_from" not in refusal(tmp_path, **changed)


def test_a_configuration_that_no_run_wrote_is_not_taken_for_a_run_without_training(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(resolved_yaml(config(tmp_path)))  # the user's own
    assert "seed: 0 there, 1 now" in refusal(tmp_path, seed=1)


def test_notes_stand_as_comments_in_the_saved_configuration(tmp_path):
    folder = begun(tmp_path)
    save_config(folder, config(tmp_path), ["started from: a\nb"])
    assert folder.config.read_text().splitlines()[1] == "# started from: a\\nb"
    assert load_config(folder.config) == config(tmp_path)
