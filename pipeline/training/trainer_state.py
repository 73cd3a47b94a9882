"""How far a run has come."""

from dataclasses import dataclass, field


@dataclass
class TrainerState:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # steps made
    epochs: int = 0  # epochs finished, with their validation and pictures
    bad_steps: int = 0  # of them skipped for a loss that was not finite
    bad_in_a_row: int = 0
    best_score: float = float("-inf")
    seconds: float = 0.0  # spent training, over all sittings
    losses: dict[str, float] = field(default_factory=dict)  # the latest of each: not every step has all of them
