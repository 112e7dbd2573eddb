"""Control groups of version 2, on a hierarchy of plain files: which folder is taken, and what is written where.

That a kernel heeds what is written is tested where the machine gives groups (tests/attacks); this one gives
version 1 only.
"""

from pathlib import Path

import pytest

from verifiers.sandbox import cgroups


@pytest.fixture
def host(tmp_path):
    """A container's view: v2 mounted at fs, this process in the group /ours/job, whose parent hands on both."""
    proc, job = tmp_path / "proc", tmp_path / "fs/ours/job"
    proc.mkdir()
    job.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/ours/job\n")
    (proc / "mounts").write_text(
        f"sysfs /sys sysfs rw 0 0\ncgroup2 {tmp_path}/fs cgroup2 rw,nsdelegate 0 0\n"
    )
    (job / "cgroup.subtree_control").write_text("")
    (job.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return tmp_path


def _kernel_files(folder: Path, used: int) -> None:
    """What the kernel puts into a new group."""
    (folder / "cgroup.procs").write_text("")
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_groups_are_made_beside_the_group_that_holds_processes(host):
    expected = cgroups.Place("v2", f"{host}/fs/ours", "memory.max", "memory.current", "pids.max")
    assert cgroups.places(str(host / "proc")) == [expected]
    (host / "fs/ours/job/cgroup.subtree_control").write_text("memory pids\n")
    assert [place.parent for place in cgroups.places(str(host / "proc"))] == [f"{host}/fs/ours/job"]


@pytest.mark.parametrize("given", ["", "memory\n", "pids\n", "cpu io\n"])
def test_without_both_controllers_there_are_no_groups(host, given):
    (host / "fs/ours/cgroup.subtree_control").write_text(given)
    assert cgroups.places(str(host / "proc")) == []


def test_a_path_of_the_host_is_unseen_in_a_container(host):
    (host / "proc/cgroup").write_text("0::/kubepods/pod7/abc\n")
    assert cgroups.places(str(host / "proc")) == []
    (host / "fs/cgroup.subtree_control").write_text("memory pids\n")
    assert [place.parent for place in cgroups.places(str(host / "proc"))] == [f"{host}/fs"]


def test_a_slot_enters_and_bounds_itself_beyond_what_it_used_when_warm(host):
    made = cgroups.make(cgroups.places(str(host / "proc")))
    ((_, folder),) = made.groups
    group = Path(folder)
    assert group.parent == host / "fs/ours" and (group / "pids.max").read_text() == "256"
    _kernel_files(group, used=50_000_000)
    entered = cgroups.Entered(made.for_slot())
    assert entered.version == "v2"
    assert (group / "cgroup.procs").read_text() == "0"  # the kernel's name for whoever writes it
    entered.settle()
    entered.bound(200_000_000)
    assert int((group / "memory.max").read_text()) == 250_000_000 + (96 << 20)
    for file in group.iterdir():
        file.unlink()  # the kernel's files go with their group; a plain folder has to be empty
    made.remove()
    assert not group.exists()


def test_a_group_that_cannot_be_made_is_none(host):
    (place,) = cgroups.places(str(host / "proc"))
    (host / "fs/ours/job/file").write_text("")
    gone = cgroups.Place("v2", f"{host}/fs/ours/job/file", place.limit, place.usage, place.tasks)
    assert cgroups.make([gone]).groups == []


def test_what_a_killed_trainer_left_is_removed(host):
    stale = host / "fs/ours/reasoner-slot-999999999-0"
    stale.mkdir()
    made = cgroups.make(cgroups.places(str(host / "proc")))
    assert not stale.exists() and len(made.groups) == 1
