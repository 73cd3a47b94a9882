"""A page's scripts for Slurm, run by bash: commands of Slurm stand in, and its variables are set by hand."""

import io
import os
import subprocess
from pathlib import Path

import pytest
from negative_model import files_in, loads, negative_model, summary_of, volume_at
from page_commands import fenced, run_commands, shown_commands, text_of
from processes import together
from torch.distributed.run import get_args_parser

from pipeline import translate
from pipeline.config.load import load_config

PAGE = "several-processes.md"
NAMES = [f"sub-{number}_T1w.nii.gz" for number in range(5)]
PRINT_ARGUMENTS = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done > arguments\ncat > standard_input\n'
STAND_INS = {
    "python": PRINT_ARGUMENTS,
    "torchrun": PRINT_ARGUMENTS,
    "srun": '#!/bin/sh\nexec "$@"\n',
    "scontrol": "#!/bin/sh\necho node7\necho node8\n",
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with five T1s, a model for every `--model`, and commands that only print their arguments."""
    monkeypatch.chdir(tmp_path)
    made = negative_model()
    loads(monkeypatch, lambda uri, device: made)
    for seed, name in enumerate(NAMES):
        volume_at(tmp_path / "my_t1s" / name, seed)
    volume_at(tmp_path / "my_t1s" / "sub-0_T2w.nii.gz")
    for name, text in {"tools/" + name: text for name, text in STAND_INS.items()}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("")
    return tmp_path


def last_command(script: str, **variables: str) -> list[str]:
    """Run a script; return the words of the command that it ended in."""
    environment = os.environ | {"PATH": f"{Path('tools').absolute()}:{os.environ['PATH']}"} | variables
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=environment, check=True, stdin=subprocess.DEVNULL)
    return Path("arguments").read_text().splitlines()


def test_the_tasks_of_an_array_translate_each_scan_once(workspace, monkeypatch):
    section = text_of(PAGE, "A cohort on Slurm")
    script, shares = fenced(section, "bash")[0], []

    def submit(words):
        assert words[1:] == ["translate.sh"]
        for task in range(3):
            words = last_command(script, SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="3")
            share = Path("standard_input").read_bytes()
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(share)))
            assert words[:2] == ["-m", "pipeline.translate"] and translate.main(words[2:]) == 0
            shares.append(share.decode().split())

    run_commands(shown_commands(section), instead={"sbatch": submit})
    assert sorted(len(share) for share in shares) == [1, 2, 2]
    assert sorted(scan for share in shares for scan in share) == [f"my_t1s/{name}" for name in NAMES]
    assert files_in(workspace / "synthetic_t2") == NAMES
    assert sorted(path.name for path in (workspace / "logs").iterdir()) == [f"task-{task}.json" for task in range(3)]


def test_two_processes_translate_a_cohort_to_one_summary(workspace):
    words = last_command(fenced(text_of(PAGE, "A cohort on Slurm"), "bash")[1])
    options = get_args_parser().parse_args(words)
    assert options.standalone and options.module and options.training_script == "pipeline.translate"
    arguments = list(options.training_script_args)
    assert [code for code, _ in together(lambda rank: translate.main(arguments), workspace / "ends")] == [0, 0]
    assert files_in(workspace / "synthetic_t2") == sorted([*NAMES, "sub-0_T2w.nii.gz"])
    assert {volume["status"] for volume in summary_of(workspace / "synthetic_t2")["volumes"]} == {"translated"}


def test_a_training_on_several_nodes_meets_on_the_first(workspace):
    (script,) = fenced(text_of(PAGE, "A training on Slurm"), "bash")
    options = get_args_parser().parse_args(
        last_command(script, SLURM_JOB_NODELIST="node[7-8]", SLURM_NNODES="2", SLURM_JOB_ID="12")
    )
    assert (options.nnodes, options.rdzv_endpoint, options.rdzv_id) == ("2", "node7:29500", "12")
    assert options.training_script == "pipeline.run" and options.training_script_args[-1] == "--quiet"
    _, *overrides = options.training_script_args[:-1]
    config = load_config(Path(translate.__file__).parents[1] / options.training_script_args[0], overrides)
    assert config.training.batch_size % (2 * int(options.nproc_per_node)) == 0
