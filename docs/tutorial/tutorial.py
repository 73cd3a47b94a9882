# %% [markdown]
# # A translation, part by part
#
# For those who know MONAI: dictionary transforms, networks and a loop that you can see, from NIfTI files to a
# translated volume on its source's grid; then the same by one YAML. It runs in under a minute on one core without a
# GPU, on small synthetic heads: its numbers are the phantom's and say nothing of real scans.
#
# > **Not for clinical use.** A translation can lose or invent structures.

# %% [markdown]
# ## Data
#
# Nine heads of 4 mm voxels, each scanned as T1 and as T2. Four give their T1 to training, four others their T2, so no
# pair is seen. The ninth is for the test. Your own data are lists of paths instead.

# %%
import tempfile
from pathlib import Path

from monai.utils import set_determinism

from pipeline.data.sources.phantom import phantom_cases

set_determinism(0)
workshop = tempfile.TemporaryDirectory()  # removed when Python ends
folder = Path(workshop.name)
cases = phantom_cases(folder, ["T1", "T2"], subjects=9, spacing_mm=4.0, seed=0, processes=1, quiet=True)
files = {contrast: [case.path for case in cases if case.contrast == contrast] for contrast in ("T1", "T2")}
training = {"T1": files["T1"][:4], "T2": files["T2"][4:8]}

# %% [markdown]
# ## Transforms
#
# Dictionary transforms in MONAI's `Compose`. They know where a volume lies and can be undone: each keeps what its
# inverse needs in the dictionary, beside the data. **A transform of your own** is one more line: anything that takes
# and returns the dictionary, whose "image" is an array (X, Y, Z), and slices (N, H, W) after `Slicesd`.

# %%
from monai.transforms import Compose

from transforms.monai_transforms import Canonicald, CentreFitd, CropHeadd, LoadVolumed, ScaleForegroundd, Slicesd


def chain(box=None):
    return Compose(
        [
            LoadVolumed("image"),  # path -> array; "image_affine" beside it
            Canonicald("image"),  # the axes nearest to RAS
            CropHeadd("image", box),  # to the head, or to a given box
            ScaleForegroundd("image", (0.5, 99.5)),  # these percentiles of the head become -1 and 1
            Slicesd("image", "axial"),
            CentreFitd("image", size=64, stride=None),
        ]
    )


heads = {contrast: [chain()({"image": path}) for path in paths] for contrast, paths in training.items()}
print(heads["T1"][0]["image"].shape, heads["T1"][0]["image_range"])

# %% [markdown]
# ## Batches
#
# From here on it is MONAI's: slices with some head in them, MONAI's random transforms, a loader for each contrast.

# %%
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import EnsureTyped, RandFlipd

augmentation = Compose([RandFlipd("image", prob=0.5, spatial_axis=0), EnsureTyped("image", track_meta=False)])


def loader(side):
    slices = [
        {"image": torch.from_numpy(image[None])}  # (1, H, W)
        for head in side
        for image, foreground in zip(head["image"], head["image_foreground"], strict=True)
        if foreground.mean() > 0.05
    ]
    return DataLoader(Dataset(slices, augmentation), batch_size=1, shuffle=True)


loaders = {contrast: loader(side) for contrast, side in heads.items()}

# %% [markdown]
# ## Networks
#
# Two generators, G from T1 to T2 and F back, and two discriminators: MONAI's `PatchDiscriminator`, giving its logits
# only. **A network of your own** is any module from (N, 1, H, W) in [-1, 1] to the same, as a generator, or to logits.
#
# Half a minute is too short to turn a contrast from random weights, so these generators begin with a table of
# intensities, fitted in seconds to the same slices without a pair
# ([how](../reference/methods.md#start-from-a-lookup)); training corrects it.

# %%
import numpy as np

from networks.lookup_start import LookupStart
from networks.patchgan import PatchGAN
from networks.unet import UNet
from pipeline.data.lookup_fit import fit_context_tables
from pipeline.data.slice_stacks import SliceStack


def stack(head):
    slices = head["image"]
    heights = 4.0 * np.arange(len(slices))
    return SliceStack(lambda: slices, positions_mm=heights, pixel_mm=(4.0, 4.0), in_volume=False)


generators = {name: LookupStart(UNet(depth=4, width=16)) for name in ("G", "F")}
discriminators = {name: PatchGAN(width=16) for name in ("D_A", "D_B")}
tables = fit_context_tables({contrast: [stack(head) for head in side] for contrast, side in heads.items()})
for name, target in (("G", "T2"), ("F", "T1")):
    generators[name].lookup.set_table(torch.from_numpy(tables[target].values), tables[target].blur_pixels)

# %% [markdown]
# ## The loop
#
# An engine has networks, losses and optimisers and makes one step; the loop is yours. `CycleGan` is one of six
# ([methods](../reference/methods.md)). **A loss of your own** is a method that adds its terms, as below.

# %%
from functools import partial

from pipeline.engines.cyclegan import CycleGan, CycleGanOptions
from pipeline.engines.structure import StructureOptions

adam = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999))
edges = StructureOptions(type="mind", weight=2.0, ramp_steps=0)  # those of the source stay
engine = CycleGan(
    CycleGanOptions(cycle_weight=2.0, identity_share=0.0, lookup_weight=2.0, structure=edges, ema_decay=0.99),
    generators,
    discriminators,
    optimisers={"generators": adam, "discriminators": adam},
    device=torch.device("cpu"),
)
for epoch in range(2):
    for real_a, real_b in zip(loaders["T1"], loaders["T2"], strict=False):
        losses = engine.step(real_a["image"], real_b["image"])
    print(epoch, {name: round(float(loss), 2) for name, loss in losses.items()})

# %% [markdown]
# ## A volume
#
# The test head's T1 becomes slices, these become T2, and the chain's inverse brings them to the file's grid: same
# shape, same affine, intensities as in the training T2s.

# %%
import nibabel


def translated(side, slices):
    network = engine.translators()[side].eval()  # "a" makes the first contrast, "b" the second
    with torch.inference_mode():
        return network(torch.from_numpy(slices)[:, None])[:, 0].numpy()


scan = chain()({"image": files["T1"][8]})
low, high = np.median([head["image_range"] for head in heads["T2"]], axis=0)
slices = translated("b", scan["image"])
volume = chain().inverse({**scan, "image": slices, "image_range": (low, high)})["image"]

original = nibabel.load(files["T1"][8])
nibabel.save(nibabel.Nifti1Image(volume, original.affine), folder / "synthetic_T2.nii.gz")
print(volume.shape == original.shape, volume.min(), volume.max())

# %% [markdown]
# ## Pictures and figures
#
# The real T2 of that head, cut to the same box, is the truth. PSNR and SSIM are by our own protocol
# ([figures](../reference/metrics.md)): inside the head of the real target, data range 2. A translation has to beat the
# copy, a scan taken for one of the other contrast. **A metric of your own** is any function of these arrays, such as
# MONAI's.

# %%
from monai.metrics import SSIMMetric
from PIL import Image

from pipeline.metrics.similarity import psnr, ssim
from pipeline.reporting.panels import SampleRow, sample_panel

scans = {"T1": scan, "T2": chain(scan["image_box"])({"image": files["T2"][8]})}
monai_ssim = SSIMMetric(spatial_dims=3, data_range=2.0)
rows = []
for source, target, side in (("T1", "T2", "b"), ("T2", "T1", "a")):
    copy, real, head = scans[source]["image"], scans[target]["image"], scans[target]["image_foreground"]
    translation = translated(side, copy)
    for name, prediction in (("copy", copy), ("translation", translation)):
        own = f"PSNR {psnr(prediction, real, 2.0, head):.2f} dB, SSIM {ssim(prediction, real, 2.0, head):.3f}"
        whole = monai_ssim(torch.from_numpy(prediction)[None, None], torch.from_numpy(real)[None, None]).item()
        print(f"{source} to {target}, {name}: {own}; MONAI's SSIM of the whole image {whole:.3f}")
    rows += [SampleRow(copy[z], translation[z], real[z], label=f"{source} to {target}") for z in (20, 30)]

Image.fromarray(sample_panel(rows, source="source", target="target"))

# %% [markdown]
# ![Slices of both directions: source, translation, real target and error](tutorial.jpg)
#
# The contrast is turned both ways: white matter is bright in T1 and dark in T2. From T2 to T1 the translation beats the
# copy by both figures. From T1 to T2 PSNR gains some 4 dB, but SSIM stays below the copy's, and fluid is not yet
# bright: in T1 fluid, bone and air are all dark, and eight heads and half a minute are too little to tell them apart.
# What more heads and eight minutes reach stands in the [first table](../../README.md#what-it-reaches).
#
# ## Yours in each place
#
# A generator of `monai.networks.nets`, one of MONAI's losses between a translation and its source, and three steps:

# %%
from monai.losses import GlobalMutualInformationLoss
from monai.networks import nets


class InformedCycleGan(CycleGan):
    """CycleGAN whose translations keep much of their source's information."""

    information = GlobalMutualInformationLoss()

    def source_losses(self, generator, translation, source):
        own = {f"information_{generator}": 0.5 * self.information(translation / 2 + 0.5, source / 2 + 0.5)}
        return super().source_losses(generator, translation, source) | own


def monai_generator():
    network = nets.UNet(2, in_channels=1, out_channels=1, channels=(16, 32, 64), strides=(2, 2), num_res_units=2)
    return torch.nn.Sequential(network, torch.nn.Tanh())


informed = InformedCycleGan(
    CycleGanOptions(),
    {"G": monai_generator(), "F": monai_generator()},
    {"D_A": PatchGAN(width=16), "D_B": PatchGAN(width=16)},
    optimisers={"generators": adam, "discriminators": adam},
    device=torch.device("cpu"),
)
for _, real_a, real_b in zip(range(3), loaders["T1"], loaders["T2"], strict=False):
    losses = informed.step(real_a["image"], real_b["image"])
print({name: round(float(loss), 2) for name, loss in losses.items()})

# %% [markdown]
# ## The same by one YAML
#
# A run does all of that, and what a loop in a notebook lacks: checkpoints that go on bitwise, validation, baselines,
# warnings, a report, MLflow. `base` names a shipped configuration; only what differs is written. On the command line
# this is `python -m pipeline.run tutorial.yaml`.

# %%
from pipeline import train, translate

configuration = f"""
base: phantom.yaml
name: tutorial
output: {folder}/run
data: {{folder: {folder}, subjects: 9, spacing_mm: 4.0}}
split: {{validation: 1, test: 1}}
preprocess: {{size: 64, store: {folder}/store, processes: 1}}
discriminator: {{layers: 3}}
training: {{epochs: 1, decay_epochs: 1, steps_per_epoch: 60, validation_slices: 10}}
evaluation: {{protocols: [], uncertainty: false}}
tracking: {{mlflow: false}}    # true, the default, tracks the run by MLflow
"""
(folder / "tutorial.yaml").write_text(configuration)
run = train(folder / "tutorial.yaml")
image = translate(files["T1"][8], run, to="T2", output=folder / "translated.nii.gz")
print(sorted(path.name for path in run.iterdir()))
print((run / "report.html").exists(), image.shape == original.shape)

# %% [markdown]
# Where your own goes in a run:
#
# | yours | in the loop above | in a run |
# | --- | --- | --- |
# | random transform | `augmentation` | `augment.monai`, by name ([augmentation](../reference/augmentation.md)) |
# | other transform | `chain` | `transforms/slice_chain.py`, for training and translation alike |
# | network | any module | `generator: {type: monai, network: AttentionUnet}`; others: a module of `networks/` |
# | loss | `source_losses`, or `losses` | [a method of your own](../reference/methods.md#add-your-own-method) |
# | metric | any function | `pipeline/metrics/`, as [contributing](../../CONTRIBUTING.md) says |
#
# Next: [your own data](../how-to/your-own-data.md), [the first run](../getting-started/first-run.md) at full size.
