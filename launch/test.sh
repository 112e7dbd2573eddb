#!/usr/bin/env bash
# Set up and run the tests; further arguments go to pytest: bash launch/test.sh -k tree
# Without any, two processes take the test files in turn; what a test prints (-s) can be seen from one only.
set -euo pipefail
source "$(dirname "$0")/install.sh"
if [ $# = 0 ]; then set -- -n 2 --dist loadfile; fi
exec .venv/bin/python -m pytest -m "not slow and not gpu and not real and not server" "$@"
