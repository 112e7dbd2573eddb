#!/usr/bin/env bash
# Build the wheel, install it away from the checkout, and run the smoke demo from an empty folder: bash launch/wheel.sh
set -euo pipefail
source "$(dirname "$0")/install.sh"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/empty"
cp -r pyproject.toml README.md LICENSE reasoner verifiers configs launch "$work/source"
.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "$work/source"
.venv/bin/python -m venv --without-pip "$work/venv"
# the libraries are those of .venv; its link to this checkout is not followed from here
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site .venv/bin/python > "$(site "$work/venv/bin/python")/libraries.pth"
.venv/bin/python -m pip --python "$work/venv/bin/python" install --quiet --no-deps --no-index "$work"/reasoner-*.whl
cd "$work/empty"
"$work/venv/bin/python" -c 'import sys, reasoner; assert reasoner.__file__.startswith(sys.prefix), reasoner.__file__'
"$work/venv/bin/reasoner" config list > /dev/null
diff -r "$(site "$work/venv/bin/python")/reasoner/launch" "$work/source/launch"
"$work/venv/bin/reasoner" demo problems.demonstrations.0.size=200 problems.train.0.size=100 problems.train.1.size=100 \
    problems.test.0.size=20 problems.test.1.size=20 stages.1.max_steps=40 stages.2.num_problems=40 \
    stages.7.rounds=1 stages.7.problems_per_round=16 stages.7.tree.num_roots=2 stages.9.num_samples=2
test -s runs/demo/report.html
