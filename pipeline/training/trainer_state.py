"""The state of the training loop."""

from dataclasses import dataclass, field


@dataclass
class TrainerState:
    """Progress of a training; saved with every checkpoint."""

    step: int = 0  # steps made
    epochs: int = 0  # epochs finished, with their validation and pictures
    bad_steps: int = 0  # steps skipped for a loss that was not finite
    bad_in_a_row: int = 0
    best_score: float = float("-inf")
    seconds: float = 0.0  # spent in training steps
    losses: dict[str, float] = field(
        default_factory=dict
    )  # the latest value of each, for not every step has all of them
