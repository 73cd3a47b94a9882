"""Between two sittings of a run those settings may change that change nothing of what is learnt, and no others."""

import pytest

from pipeline.config.schema import Config
from pipeline.run_config import open_run_folder, save_config
from pipeline.utils.errors import UserError

MAY_CHANGE = {
    "output", "device", "threads", "split.file",
    "preprocess.processes", "preprocess.store", "preprocess.on_bad_volume",
    "training.epochs", "training.decay_epochs",
    "training.checkpoint_minutes", "training.cuda_graph", "training.slices_on_device",
}  # fmt: skip
MAY_CHANGE_WHOLLY = ("tracking.", "evaluation.")


def leaves(content, prefix=""):
    """Every setting's key and value."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        yield from leaves(value, f"{key}.") if isinstance(value, dict) else [(key, value)]


def changed(config, key, value):
    """A copy of a configuration with one setting changed, whether or not that makes sense."""
    first, _, rest = key.partition(".")
    return config.model_copy(update={first: changed(getattr(config, first), rest, value) if rest else value})


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return Config.model_validate(
        {"name": "small", "data": {"source": "phantom"}, "output": tmp_path_factory.mktemp("run") / "run"}
    )


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_setting_but_those_that_change_nothing_of_what_is_learnt_is_held(config):
    folder = open_run_folder(config)
    save_config(folder, config)
    folder.record.write_text("{}")  # as if something were trained
    refused, taken = set(), set()
    for key, value in leaves(config.model_dump(mode="json")):
        if key == "output":  # names the folder itself
            continue
        other = changed(config, key, not value if isinstance(value, bool) else f"not {value}")
        try:
            open_run_folder(other)
            taken.add(key)
        except UserError as error:
            assert f"  {key}: " in str(error)
            refused.add(key)
    assert {key for key in taken if not key.startswith(MAY_CHANGE_WHOLLY)} == MAY_CHANGE - {"output"}
    assert {"seed", "training.precision", "training.optimiser", "method.cycle_weight", "data.seed"} <= refused
    assert not any(key.startswith(MAY_CHANGE_WHOLLY) for key in refused)
