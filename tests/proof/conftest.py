"""What the tests of proofs need: Coq and z3, or a skip that says so."""

import pytest

from verifiers.proof import coq, smt


@pytest.fixture(scope="session")
def coq_here() -> str:
    """Coq's version; skips the test where there is none."""
    if coq.find() is None:
        pytest.skip("Coq is not installed (bash launch/coq.sh)")
    return coq.find().version


@pytest.fixture(scope="session")
def z3_here() -> str:
    """z3's version; skips the test where it is not installed."""
    if smt.find() is None:
        pytest.skip("z3 is not installed (pip install 'reasoner[proof]')")
    return smt.find().version
