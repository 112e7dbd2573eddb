# Sourced by quickstart.sh and test.sh: a virtual environment at the root, filled once from the pinned list.
# Where no Python 3.11 or newer is found as python3, set PYTHON.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "reasoner: $python is not Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2
    exit 2
fi
wanted="$(cat pyproject.toml launch/constraints.txt | cksum)"
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "setting up .venv (once, a few minutes)"
    "$python" -m venv .venv
    # torch first and alone: pinned, it comes as the plain CPU build where an index has one
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c launch/constraints.txt torch
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c launch/constraints.txt -e '.[test,sandbox,proof,serve]'
    echo "$wanted" > .venv/installed
fi
