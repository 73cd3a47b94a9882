from types import SimpleNamespace

import psutil
import pytest

from transforms.io import memory
from transforms.io.memory import free_memory


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine with 8,000 bytes free and this process in the control group a/b; returns what writes a group."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8000))
    monkeypatch.setattr(memory, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(memory, "PROCESS_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/a/b\n")

    def write(group, most, used, cache):
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("max", most), ("current", used), ("stat", f"anon 5\ninactive_file {cache}")):
            (folder / f"memory.{name}").write_text(f"{text}\n")

    return write


def test_without_groups_or_limits_it_is_the_machines(groups):
    assert free_memory() == 8000
    groups("a/b", "max", 10, 0)
    assert free_memory() == 8000


def test_the_narrowest_group_counts_and_its_cache_is_free(groups):
    groups("a/b", 5000, 2000, 500)
    assert free_memory() == 3500
    groups("a", 3000, 2900, 100)
    assert free_memory() == 200
    groups("a", 3000, 3100, 0)
    assert free_memory() == 0


def test_groups_of_the_first_version_count_too(groups, tmp_path):
    (tmp_path / "own").write_text("4:cpu,memory:/job\n0::/\n")
    job = tmp_path / "memory" / "job"
    job.mkdir(parents=True)
    for name, text in (("limit_in_bytes", 4000), ("usage_in_bytes", 1500), ("stat", "total_inactive_file 100")):
        (job / f"memory.{name}").write_text(f"{text}\n")
    assert free_memory() == 2600


def test_no_control_groups_at_all(groups, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS_CGROUPS", tmp_path / "none")
    assert free_memory() == 8000
