"""The house rules that a reader relies on: who imports whom, how fast a door answers, how long a file is."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "networks", "transforms", "benchmarks")
FOUNDATION = (
    "pipeline",
    "pipeline.utils.arguments",
    "pipeline.config",
    "pipeline.utils.console",
    "pipeline.utils.distributed",
    "pipeline.utils.errors",
    "pipeline.utils.files",
    "pipeline.utils.hardware",
    "pipeline.utils.interruption",
    "pipeline.utils.workers",
)
# What each package may import besides the foundation: those below it, and no other.
BELOW = {
    "pipeline.engines.losses": (),
    "pipeline.engines": ("networks", "pipeline.engines.losses"),
    "pipeline.metrics": ("transforms",),
    "pipeline.tracking": (),
    "pipeline.data": ("transforms",),
    "pipeline.reporting": ("transforms", "pipeline.tracking", "pipeline.metrics.names"),
    "pipeline.runs": ("pipeline.data", "transforms"),
    "pipeline.exploration": (
        "transforms",
        "pipeline.data",
        "pipeline.data_builders",
        "pipeline.reporting",
        "pipeline.runs",
        "pipeline.tracking",
    ),
    "pipeline.sweeping": ("pipeline.comparison", "pipeline.runs", "pipeline.tracking"),
    "pipeline.model_builder": ("transforms", "networks", "pipeline.engines", "pipeline.runs"),
    "pipeline.exporting": (
        "pipeline.inference",
        "transforms",
        "networks",
        "pipeline.data",
        "pipeline.runs",
        "pipeline.metrics",
    ),
    "pipeline.inference": (
        "transforms",
        "pipeline.data",
        "pipeline.engines",
        "pipeline.model_builder",
        "pipeline.runs",
        "pipeline.tracking",
    ),
}
LEAVES = ("pipeline.runs.checkpoint", "pipeline.inference.output_volume")  # know the foundation alone
# Besides `pipeline.config` and the doors, these alone see a configuration; all others take plain values.
SEES_CONFIG = {
    "pipeline.train",
    "pipeline.dry_run",
    "pipeline.data_builders",
    "pipeline.engines.builders",
    "pipeline.model_builder",
    "pipeline.run_builders",
    "pipeline.run_config",
}
SLOW_TO_IMPORT = {"torch", "monai", "mlflow", "SimpleITK", "scipy", "skimage", "matplotlib", "nilearn", "onnx"}
MOST_LINES = 300


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def imported(name: str) -> set[str]:
    """The modules of this project that a module imports, at its top or within its functions."""
    package = name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names}
    return {module for module in found if module in SOURCES}


IMPORTS = {name: imported(name) for name in SOURCES}


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a module is one of those named or lies in one of them; the package `pipeline` itself is no prefix."""
    return any(name == prefix or (prefix != "pipeline" and name.startswith(f"{prefix}.")) for prefix in prefixes)


def strangers(package: str, allowed: tuple[str, ...]) -> dict[str, set[str]]:
    """What the modules of a package, or one module, import beyond what is allowed."""
    modules = [name for name in SOURCES if within(name, (package,))]
    assert modules, f"{package} is not there"
    beyond = {name: {module for module in IMPORTS[name] if not within(module, allowed)} for name in modules}
    return {name: modules for name, modules in beyond.items() if modules}


def is_door(name: str) -> bool:
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in TREES[name].body
    )


COMMANDS = [name for name in SOURCES if is_door(name)]
DOORS = [name for name in COMMANDS if name.startswith("pipeline.")]


def project_files() -> list[Path]:
    """Every text file that belongs to the project."""
    folders = [ROOT / folder for folder in (*PACKAGES, "configs", "tests", "docs", ".ci")]
    inside = chain.from_iterable(folder.rglob("*") for folder in folders)
    kinds = {".py", ".yaml", ".yml", ".md", ".toml", ".txt", ".jinja", ".html", ".js", ".css", ".sh", ""}
    found = (path for path in chain(ROOT.glob("*"), inside) if path.is_file() and path.suffix in kinds)
    return [path for path in found if "node_modules" not in path.parts]  # fetched, not ours


def test_imports_are_read_wherever_they_stand():
    assert "pipeline.inference.model" in IMPORTS["pipeline.translate"]  # within a function
    assert "transforms.slice_chain" in IMPORTS["pipeline.data.slice_cache"]
    assert "networks.blocks" in IMPORTS["networks.unet"]
    assert len(SOURCES) > 40


@pytest.mark.parametrize("package", ["networks", "transforms"])
def test_networks_and_transforms_know_nothing_but_themselves(package):
    assert strangers(package, (package,)) == {}


def test_nothing_rests_on_the_benchmarks():
    users = {name for name, modules in IMPORTS.items() if any(within(module, ("benchmarks",)) for module in modules)}
    assert users and {name for name in users if not within(name, ("benchmarks",))} == set()


def test_nothing_imports_in_a_circle():
    try:
        order = list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")
    assert len(order) == len(SOURCES)


def test_the_foundation_rests_on_itself_alone():
    # These check what a configuration names of MONAI, and are imported where it does.
    allowed = (*FOUNDATION, "transforms.monai_augmentation", "networks.monai_networks")
    assert {name: found for part in FOUNDATION[1:] for name, found in strangers(part, allowed).items()} == {}
    assert IMPORTS["pipeline"] == set()


def package_of(name: str) -> str:
    """The package that a module lies in, or the module itself where it stands at the top of `pipeline`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def test_no_package_imports_another_in_a_circle():
    packages = {package_of(name): set() for name in SOURCES}
    for name, modules in IMPORTS.items():
        packages[package_of(name)] |= {package_of(module) for module in modules} - {package_of(name)}
    try:
        list(TopologicalSorter(packages).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of packages: {' -> '.join(reversed(error.args[1]))}")
    assert len(packages) > 20


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_lies_below_it(package):
    assert strangers(package, (package, *FOUNDATION, *BELOW[package])) == {}


@pytest.mark.parametrize("module", LEAVES)
def test_a_leaf_knows_the_foundation_alone(module):
    assert strangers(module, FOUNDATION) == {}


def test_nothing_imports_a_door():
    assert {name: doors for name in SOURCES if (doors := IMPORTS[name] & set(DOORS))} == {}


def test_every_benchmark_begins_with_its_command():
    benchmarks = [name for name in COMMANDS if name not in DOORS]
    assert {"benchmarks.data", "benchmarks.step"} <= set(benchmarks)
    described = {name: ast.get_docstring(TREES[name]).splitlines()[2] for name in benchmarks}
    assert {name for name, line in described.items() if not line.startswith(f"python -m {name}")} == set()


def test_the_training_loop_knows_engines_by_their_base_only():
    engines = {name for name in IMPORTS["pipeline.training.loop"] if within(name, ("pipeline.engines",))}
    assert engines == {"pipeline.engines.base"}


def test_engines_know_neither_disk_nor_tracking():
    modules = [name for name in SOURCES if within(name, ("pipeline.engines",))]
    assert {name for name in modules if "pipeline.utils.files" in IMPORTS[name]} == set()
    assert {name for name in modules if top_level_names(name) & {"mlflow", "os", "pathlib", "shutil"}} == set()


def top_level_names(name: str) -> set[str]:
    """The first names of everything a module imports, ours or not."""
    nodes = list(ast.walk(TREES[name]))
    plain = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module.partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_components_take_no_config_object():
    modules = [name for name in SOURCES if within(name, ("pipeline",)) or name.startswith("pipeline.")]
    others = [name for name in modules if not within(name, ("pipeline.config",)) and name not in DOORS]
    readers = {name for name in others if any(within(module, ("pipeline.config",)) for module in IMPORTS[name])}
    assert readers == SEES_CONFIG
    functions = {name: [node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef)] for name in others}
    takers = {name for name in functions if any("config" in argument_names(node) for node in functions[name])}
    assert takers <= SEES_CONFIG


def argument_names(function: ast.FunctionDef) -> set[str]:
    """The names of a function's parameters."""
    arguments = function.args
    return {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def test_there_are_doors_and_each_has_its_main():
    assert {"pipeline.translate", "pipeline.download"} <= set(DOORS)
    for name in DOORS:
        functions = {node.name: node for node in TREES[name].body if isinstance(node, ast.FunctionDef)}
        assert ast.unparse(functions["main"].args) == "argv: list[str] | None=None", name
        assert ast.unparse(functions["main"].returns) == "int", name


@pytest.mark.parametrize("door", COMMANDS)
def test_a_door_answers_help_without_the_slow_imports(door):
    command = [sys.executable, "-X", "importtime", "-m", door, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"python -m {door}" in result.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "argparse" in loaded  # the listing was read
    assert loaded & SLOW_TO_IMPORT == set()


def test_every_file_is_read_in_one_sitting():
    files = [path for path in project_files() if path.suffix == ".py"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 60
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_file_knows_the_machine_it_was_written_on():
    anywhere, outside_tests = re.compile(r"/(?:work|venv)/"), re.compile(r"(?<![\w.])/(?:home|Users|root|mnt|tmp)/\w")
    found = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in project_files()
        for line in path.read_text(encoding="utf-8").splitlines()
        if anywhere.search(line) or (ROOT / "tests" not in path.parents and outside_tests.search(line))
    }
    assert found == set()


def test_what_comes_from_outside_is_never_run():
    calls = [
        (name, ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords})
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "os.system", "yaml.unsafe_load", "yaml.full_load"}
    assert [(name, call) for name, call, _ in calls if call in forbidden] == []
    loaders = {words.get("Loader") for _, call, words in calls if call == "yaml.load"}
    assert loaders <= {"yaml.BaseLoader"}  # which makes nothing but strings
    assert [name for name, call, words in calls if call == "torch.load" and words.get("weights_only") != "True"] == []
    assert [name for name, call, words in calls if call == "np.load" and words.get("allow_pickle") != "False"] == []
    assert [name for name, _, words in calls if words.get("shell") == "True"] == []
    assert any(call == "torch.load" for _, call, _ in calls)


def test_nothing_listens_on_a_port():
    servers = {"http", "socket", "socketserver", "asyncio", "wsgiref", "xmlrpc", "flask", "uvicorn", "werkzeug"}
    found = {name: top_level_names(name) & servers for name in SOURCES}
    assert {name for name, modules in found.items() if modules} == set()
    calls = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func).endswith((".listen", ".serve_forever"))] == []
