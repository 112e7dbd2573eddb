"""Settings of every test: offline, two torch threads in all, and where the shared data lie."""

import os
import signal
import sys
from pathlib import Path

import pytest

NUM_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # of two processes that run tests, one each

# Before any test imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads that wait spin by default: where another program has the cores, small models take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What starts the tests may ignore them (nohup, a script's background), and what tests start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption(
        "--shared-data",
        metavar="PATH",
        help="folder of real public data files (default: ../shared/data beside the checkout)",
    )


def pytest_runtest_setup(item):
    torch = sys.modules.get("torch")
    if item.get_closest_marker("gpu") and not (torch and torch.cuda.is_available()):
        pytest.skip("no CUDA device here")
    if torch is not None and torch.get_num_threads() != NUM_THREADS:
        torch.set_num_threads(NUM_THREADS)


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """What a run sets for the whole process ends with the test that ran it; the next test finds what it would alone."""
    owners = [("verifiers.sandbox.pool", "min_isolation"), ("reasoner.policy.machine", "_chosen")]
    before = [(module, name, getattr(module, name)) for m, name in owners if (module := sys.modules.get(m))]
    yield
    for module, name, value in before:
        setattr(module, name, value)


@pytest.fixture(scope="session")
def real_model() -> str:
    """The folder of a real pretrained chat model; skips the test where there is none."""
    default = Path.home() / ".cache" / "reasoner" / "smollm2"
    folder = Path(os.environ.get("REASONER_SMOLLM2", default))
    if not (folder / "config.json").is_file():
        pytest.skip(f"no real model at {folder}; bash launch/smollm2.sh fetches one")
    return str(folder)


@pytest.fixture(scope="session")
def shared_data(pytestconfig) -> Path:
    """The folder of shared data; skips the test where there is none."""
    given = pytestconfig.getoption("--shared-data")
    folder = Path(given) if given else pytestconfig.rootpath.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; give --shared-data PATH")
    return folder
