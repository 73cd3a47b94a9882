import torch

from pipeline.training.loop import LossMonitor
from pipeline.training.schedule import TrainerState

NAN, INFINITE = float("nan"), float("inf")


def monitored(*steps, limit=3, start=0):
    """A ledger with steps' losses in it, not yet read."""
    monitor = LossMonitor(TrainerState(step=start), limit)
    for losses in steps:
        monitor.position.step += 1
        monitor.record({name: torch.tensor(loss) for name, loss in losses.items()})
    return monitor


def test_nothing_is_known_until_it_is_read(capsys):
    monitor = monitored({"cycle": 1.0}, {"cycle": NAN})
    assert (monitor.position.losses, monitor.position.bad_steps) == ({}, 0) and not capsys.readouterr().err
    for _ in range(2):  # what was read is not counted again
        monitor.flush()
    assert (monitor.position.bad_steps, monitor.position.bad_in_a_row) == (1, 1)


def test_steps_that_were_skipped_are_named_when_they_are_read(capsys):
    monitor = monitored({"cycle": 1.0, "critic": NAN}, {"cycle": INFINITE, "critic": NAN}, {"cycle": 2.0}, start=40)
    monitor.flush()
    assert [line for line in capsys.readouterr().err.splitlines() if line] == [
        "warning: step 41: critic not finite; the step was skipped",
        "warning: step 42: cycle, critic not finite; the step was skipped",
    ]
    assert (monitor.position.bad_steps, monitor.position.bad_in_a_row) == (2, 0)


def test_of_many_skipped_steps_three_are_named_and_then_the_tenth_and_hundredth(capsys):
    monitor = monitored(*[{"cycle": NAN}, {"cycle": 1.0}] * 120)
    monitor.flush()
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split()[2].rstrip(":")) for line in lines] == [1, 3, 5, 19, 199]
    assert lines[2].endswith("; of further ones, the 10th, 100th, … are named")
    assert lines[3] == "warning: step 19: cycle not finite; the step was skipped; 10 so far"


def test_the_latest_of_each_loss_is_kept_where_not_every_step_has_all():
    monitor = monitored({"cycle": 1.0, "critic": 5.0}, {"critic": 4.0}, {"critic": 3.5})
    monitor.flush()
    assert monitor.position.losses == {"cycle": 1.0, "critic": 3.5}


def test_losses_after_a_step_may_be_overwritten():
    monitor, loss = LossMonitor(TrainerState(step=1), 3), torch.tensor(1.0)
    monitor.record({"cycle": loss})
    loss.fill_(NAN)  # as a replayed step does
    monitor.flush()
    assert monitor.position.losses == {"cycle": 1.0}
