import ast
from pathlib import Path

import pytest

from pipeline.metrics import names, protocols

PIPELINE = Path(__file__).parents[3] / "pipeline"


def homes(name):
    """The modules of the pipeline that give a name a value of their own at their top."""
    names_found = []
    for path in PIPELINE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = ast.dump(ast.Tuple(node.targets)) if isinstance(node, ast.Assign) else ""
            if f"id='{name}'" in targets:
                names_found.append(path.relative_to(PIPELINE).as_posix())
    return names_found


@pytest.mark.parametrize("name", ["MODEL", "COPY", "HISTOGRAM", "LOOKUP"])
def test_the_name_of_a_system_has_one_home(name):
    assert homes(name) == ["metrics/names.py"]


def test_the_data_range_has_one_home():
    assert homes("DATA_RANGE") == ["metrics/similarity.py"]


def test_our_protocol_bears_its_name():
    assert protocols.OWN.name == names.OWN == "own"


def test_names_wait_for_nothing():
    tree = ast.parse(Path(names.__file__).read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
