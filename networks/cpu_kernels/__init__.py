"""Faster ways to compute a network's convolutions on a CPU, behind `accelerate(network)`."""

from networks.cpu_kernels.convolutions import accelerate, torch_layers, twice_differentiable

__all__ = ["accelerate", "torch_layers", "twice_differentiable"]
