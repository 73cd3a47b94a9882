"""What torch's optimisers and its loss scaler leave to do: options after a load, and steps that do not count."""

import torch
from torch import Tensor


def restore_options(optimiser: torch.optim.Optimizer) -> None:
    """Restore an optimiser's "fused" and "capturable": a loaded state brings those of the run that saved it."""
    for group in optimiser.param_groups:
        group |= {name: optimiser.defaults[name] for name in ("fused", "capturable") if name in optimiser.defaults}
        for weight in group["params"]:
            state = optimiser.state.get(weight, {})
            if group.get("fused") and "step" in state:
                state["step"] = state["step"].to(weight.device)


def update_scaler(scaler: torch.amp.GradScaler, is_finite: Tensor) -> None:
    """Update the loss scaler from a step's overflows, unless the losses themselves were not finite."""
    if not scaler.is_enabled():
        return
    scaler_state = [tensor for tensor in (scaler._scale, scaler._growth_tracker) if tensor is not None]
    previous_state = [tensor.clone() for tensor in scaler_state]
    scaler.update()
    for tensor, previous in zip(scaler_state, previous_state, strict=True):
        tensor.copy_(torch.where(is_finite, tensor, previous))
