"""Structure losses: what a translation has to keep of its source, whatever the two contrasts are.

Each compares the neighbourhoods of a translation and of its source, (N, 1, H, W) in [-1, 1], and not their
intensities: a contrast may be inverted or stretched at no cost, an edge may not be moved. The losses are means over the
head of each slice, then over slices, and lie in [0, 1]. Air does not count, and the source's own noise, estimated slice
by slice, is what differences are measured against. Nothing here waits for a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from pipeline.engines.losses import box_mean
from pipeline.engines.state import StepCounter

StructureLoss = Callable[[Tensor, Tensor], Tensor]
AIR = -0.95  # darker is air, or fluid and bone as dark
HEAD_MARGIN = 2  # pixels by which the head is enlarged
LEAST_NOISE = 0.01  # standard deviation; images without noise, such as masked ones, still have rounding and resampling
GAUSSIAN_MEDIAN = 0.6745  # of |x| with x from N(0, 1)
MIND_DISTANCE, MIND_WINDOW = 2, 5  # pixels
LNCC_WINDOW = 7  # pixels


@dataclass(frozen=True, kw_only=True)
class StructureOptions:
    """Which structure loss, and its weight."""

    type: str  # a key of `STRUCTURE_LOSSES`
    weight: float  # of each direction's term
    ramp_steps: int  # steps over which the weight grows from 0; 0: it has its full size from the first


def mind(translation: Tensor, source: Tensor) -> Tensor:
    """Mean |MIND(translation) - MIND(source)| (Heinrich et al. 2012; as a loss, Yang et al. 2018, SC-CycleGAN).

    The descriptor of a pixel is exp(-D_r / V) for four neighbours r at 2 pixels: D_r is the squared difference to
    the neighbour, averaged over 5x5 pixels, and V the mean of D_r (Heinrich's equations 4-7), but no less than what
    noise makes of it: else descriptors of flat tissue would be those of its noise.
    """
    head, noise = head_and_noise(source)
    floor = 4 * noise.square()  # of a difference of two noisy pixels: 2 σ²
    with torch.no_grad():
        expected = _mind(source, floor)
    return _mean_over_head((_mind(translation, floor) - expected).abs().mean(dim=1, keepdim=True), head)


def _mind(image: Tensor, floor: Tensor) -> Tensor:
    """Return descriptors (N, 4, H - 8, W - 8) of the pixels that are 4 or more from the border."""
    distance, margin, patches = MIND_DISTANCE, MIND_DISTANCE + MIND_WINDOW // 2, []
    for axis, other in ((2, 3), (3, 2)):
        length, count = image.shape[axis] - distance, image.shape[axis] - 2 * margin
        difference = image.narrow(axis, distance, length) - image.narrow(axis, 0, length)
        inner = difference.narrow(other, distance, image.shape[other] - 2 * distance)
        squares = box_mean(inner.square(), MIND_WINDOW)
        # A pixel's distance to the neighbour behind it is that neighbour's distance to the one ahead of it.
        patches += [squares.narrow(axis, start, count) for start in (0, distance)]
    distances = torch.cat(patches, dim=1)
    return torch.exp(-distances / torch.maximum(distances.mean(dim=1, keepdim=True), floor))


def normalised_gradients(translation: Tensor, source: Tensor) -> Tensor:
    """Mean 1 - (∇t·∇s)² / (|∇t|²_ε |∇s|²_ε), |∇t|²_ε = |∇t|² + ε² (Haber and Modersitzki 2006, equation 5).

    ε² is what noise makes of |∇s|² (Giraldo Paniagua et al., AdaNGF, learn it): a fixed ε takes noise for edges in one
    scan and edges for noise in the other. Flat tissue has no direction, costs 1 and has no gradient.
    """
    head, noise = head_and_noise(source)
    (t_x, t_y), (s_x, s_y) = (_central_differences(image) for image in (translation, source))
    squared_epsilon = noise.square()  # half of a difference of two noisy pixels has σ²/2, in two directions
    products = (t_x * s_x + t_y * s_y).square()
    lengths = (t_x.square() + t_y.square() + squared_epsilon) * (s_x.square() + s_y.square() + squared_epsilon)
    return _mean_over_head(1 - products / lengths, head)


def local_correlation(translation: Tensor, source: Tensor) -> Tensor:
    """Mean 1 - cov(t, s)² / (var t · var s) over windows of 7x7 pixels, variances no less than the source's noise.

    (`monai.losses.LocalNormalizedCrossCorrelationLoss`, squared too, has no floor by slice and makes tensors on the
    host, which a CUDA graph cannot record.)
    """
    head, noise = head_and_noise(source)
    t, s, floor = translation, source, noise.square()
    with torch.no_grad():
        s_mean, s_squares = box_mean(torch.cat([s, s.square()], dim=1), LNCC_WINDOW).split(1, dim=1)
        s_variance = torch.maximum(s_squares - s_mean.square(), floor)
    t_mean, t_squares, products = box_mean(torch.cat([t, t.square(), t * s], dim=1), LNCC_WINDOW).split(1, dim=1)
    t_variance = torch.maximum(t_squares - t_mean.square(), floor)
    return _mean_over_head(1 - (products - t_mean * s_mean).square() / (t_variance * s_variance), head)


STRUCTURE_LOSSES: dict[str, StructureLoss] = {"mind": mind, "ngf": normalised_gradients, "lncc": local_correlation}


@torch.no_grad()
def head_and_noise(source: Tensor) -> tuple[Tensor, Tensor]:
    """Return the head of each slice, (N, 1, H, W) of 0 and 1, and the standard deviation of its noise, (N, 1, 1, 1).

    The noise is the median of |second differences along both axes| inside the head over 6 · 0.6745 (Immerkær 1996, with
    a median in place of the mean, for edges are few), which polynomials of the first degree and straight edges do not
    enter.
    """
    width = 2 * HEAD_MARGIN + 1
    head = functional.max_pool2d((source > AIR).to(source.dtype), width, 1, HEAD_MARGIN)
    response = source.diff(n=2, dim=2).diff(n=2, dim=3).abs()
    inside = torch.where(head[..., 1:-1, 1:-1] > 0, response, torch.nan)
    rows = inside.flatten(1)
    median = (rows.cpu() if rows.device.type == "mps" else rows).nanmedian(dim=1).values  # MPS has none
    noise = median.to(rows.device) / (6 * GAUSSIAN_MEDIAN)
    return head, noise.nan_to_num(0.0).clamp(min=LEAST_NOISE)[:, None, None, None]


def _mean_over_head(values: Tensor, head: Tensor) -> Tensor:
    """Return the mean over slices of each slice's mean in its head; `values` may lack a margin."""
    margin = (head.shape[-1] - values.shape[-1]) // 2
    weights = head[..., margin : head.shape[-2] - margin, margin : head.shape[-1] - margin]
    return ((values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1)).mean()


def _central_differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes along both axes, (N, 1, H - 2, W - 2) each, in intensity a pixel."""
    rows, columns = image[..., 1:-1], image[..., 1:-1, :]
    return (rows[..., 2:, :] - rows[..., :-2, :]) / 2, (columns[..., 2:] - columns[..., :-2]) / 2


class StructureTerm:
    """A weighted structure loss, whose weight may grow linearly over the first steps.

    `steps` are those that were not skipped, of the discriminators' warm-up too.
    """

    def __init__(self, options: StructureOptions, device: torch.device):
        self.options, self.steps = options, StepCounter(device)

    def __call__(self, translation: Tensor, source: Tensor) -> Tensor:
        """Return the weighted loss of the next step, in float32 at least; the source gets no gradients."""
        dtype = torch.promote_types(translation.dtype, torch.float32)
        loss = STRUCTURE_LOSSES[self.options.type](translation.to(dtype), source.detach().to(dtype))
        loss = self.options.weight * loss
        ramp_steps = self.options.ramp_steps
        return loss * (self.steps.count / ramp_steps).clamp(max=1).to(dtype) if ramp_steps else loss

    def count_step(self, is_finite: Tensor) -> None:
        """Count a step, unless it was skipped."""
        self.steps.count += is_finite.to(self.steps.count.device)
