from dataclasses import replace

import numpy as np
import pytest
import torch
from small_slices import EVERYTHING, batches, store_volumes

from pipeline.data.loader import DeviceSliceBank, SliceBank, UnpairedSlices, on_device_slices
from pipeline.utils.errors import UserError
from transforms.augmentation import Augmentation
from transforms.neighbours import Neighbours

CPU = torch.device("cpu")
PLAIN = replace(EVERYTHING, brightness=0.0, contrast=0.0)


@pytest.fixture(params=[Neighbours(), Neighbours(2), Neighbours(distances_mm=(2.0,))])
def banks(tmp_path, request):
    volumes = (store_volumes(tmp_path / name, counts) for name, counts in (("a", [5, 1, 5]), ("b", [3, 4])))
    first, *others = [[replace(entry, air_beyond=(False, True)) for entry in stored] for stored in volumes]
    first[0] = replace(first[0], positions=range(1, 4), first=1, stored=5)
    return [SliceBank(stored, request.param) for stored in (first, *others)]


def test_what_lies_on_the_device_is_what_is_stored(banks):
    for bank in banks:
        index = np.random.default_rng(0).permutation(len(bank))
        assert torch.equal(DeviceSliceBank(bank, CPU).gather(index), bank.gather(index))
        assert len(DeviceSliceBank(bank, CPU)) == len(bank)


def test_every_level_comes_back_the_same(tmp_path):
    (stored,) = store_volumes(tmp_path, [1], size=256)
    np.save(stored.path, np.arange(65536, dtype=np.uint16).reshape(1, 256, 256))
    bank = SliceBank([stored])
    assert torch.equal(DeviceSliceBank(bank, CPU).gather([0]), bank.gather([0]))


@pytest.mark.parametrize("augmentation", [Augmentation(), PLAIN, replace(PLAIN, jitter=1.0)])
def test_batches_are_those_of_the_store(banks, augmentation):
    usual = UnpairedSlices(*banks, augmentation, 3)
    on_device = UnpairedSlices(*on_device_slices(banks, CPU), augmentation, 3)
    for batch, device_batch in zip(batches(usual, 1), batches(on_device, 1), strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, device_batch, strict=True))


def test_slices_that_do_not_fit_are_refused_before_any_is_read(banks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3291, 10_000))  # 18 slices of 8 x 8 take 2304 B
    with pytest.raises(UserError, match=r"slices_on_device = true: 0\.0 GiB of slices do not fit into 70% of .* cuda"):
        on_device_slices(banks, torch.device("cuda"))
