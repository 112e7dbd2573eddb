"""Proofs a second, on one core: `python -m tests.benchmarks.proof [coq_pool]`.

coq_pool: warm sessions behind the sandbox's walls against one coqc process a proof, which has no walls. The same
generated theorems go to both, others in every round, so that nothing comes from the cache; rounds alternate.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from reasoner.data.theorems import FAMILIES, HEADER, theorem
from tests.benchmarks.measure import PAIRS, medians, row, run, seconds
from verifiers import verify
from verifiers.proof import coq, programs

OURS, PEERS = 60, 6  # proofs a round
_numbers = itertools.count()


def _theorems(count: int) -> list:
    families = sorted(FAMILIES)
    return [theorem(families[n % 3], 100_000 + n, 1 + n // 3 % 3) for n in itertools.islice(_numbers, count)]


def _ours() -> float:
    made = _theorems(OURS)

    def work() -> None:
        for t in made:
            found = verify("proof", t.proof, {"system": "coq", "statement": t.statement, "header": HEADER})
            assert found.status == "correct" and found.isolation != "none", found

    return OURS / seconds(work)


def _coqc() -> float:
    made = _theorems(PEERS)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for t in made:
                text = f"{HEADER}\nTheorem goal : {t.statement}.\nProof.\n{t.proof}\nQed.\n"
                Path(folder, "goal.v").write_text(text, "utf-8")
                subprocess.run(["coqc", "-q", "goal.v"], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    return PEERS / seconds(work)


def coq_pool() -> dict:
    """Ours against coqc; the first proof of a session, which loads the header, is in the round that warms up."""
    if coq.find() is None:
        return row(
            "proof: coq_pool",
            0.0,
            None,
            "coqc: Coq is not installed (bash launch/coq.sh)",
            "proofs/s/core",
            5,
        )
    ours, peer = medians(_ours, _coqc, pairs=PAIRS)
    programs.close()
    return row("proof: coq_pool", ours, peer, "one coqc process a proof, no walls", "proofs/s/core", 5)


if __name__ == "__main__":
    sys.exit(run({"coq_pool": coq_pool}, sys.argv[1:]))
