"""One of the project's commands in a process that kills itself, once: torchrun is to start it again.

python tests/mortal.py FOLDER TIMES COMMAND ARGUMENT …

In each of the first TIMES lives of the processes, one of them, another each time, is killed at its third step or its
second volume. FOLDER keeps how many lives there were, and what was written.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
FOLDER, TIMES, COMMAND = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
LIFE = int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def mortal(function, last: int, note=lambda *arguments: None):
    """Return a function that is the death of this process when it is called for the `last` time."""
    calls = 0

    def called(*arguments):
        nonlocal calls
        calls += 1
        if LIFE < TIMES and LIFE % int(os.environ["WORLD_SIZE"]) == int(os.environ["RANK"]) and calls == last:
            (FOLDER / f"death-{LIFE}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments)
        note(*arguments)
        return result

    return called


def note(files: dict[Path, object], _) -> None:
    with (FOLDER / "written.txt").open("a") as lines:
        lines.write(f"{[*files][-1].name}\n")


if COMMAND == "pipeline.run":
    from pipeline.engines.base import Engine

    step = mortal(Engine.step, 3)
    Engine.step = lambda *arguments: step(*arguments)
else:
    import pipeline.inference.batch.batch as batch

    batch.write_together = mortal(batch.write_together, 2, note)
raise SystemExit(import_module(COMMAND).main(sys.argv[4:]))
