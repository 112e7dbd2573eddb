#!/usr/bin/env bash
# Set up and run the tests; further arguments go to pytest: bash launch/test.sh -k tree
set -euo pipefail
source "$(dirname "$0")/install.sh"
exec .venv/bin/python -m pytest -m "not slow and not gpu and not real and not server" "$@"
