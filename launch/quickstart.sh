#!/usr/bin/env bash
# Set up and train a reasoning model from nothing: bash launch/quickstart.sh [key=value ...]
set -euo pipefail
source "$(dirname "$0")/install.sh"
exec .venv/bin/reasoner demo "$@"
