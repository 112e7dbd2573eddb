"""How many cores this process may use."""

import os


def num_cores() -> int:
    """The cores of this process's affinity; where the system knows none (macOS), all that the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
