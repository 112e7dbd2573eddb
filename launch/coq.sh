#!/usr/bin/env bash
# Install Coq, where a network and apt are: bash launch/coq.sh. The verifier "proof" finds coqidetop on PATH (8.16 tested).
set -euo pipefail
if command -v coqidetop.opt >/dev/null 2>&1 || command -v coqidetop >/dev/null 2>&1; then
    echo "Coq is there: $(coqc --print-version)"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "reasoner: no apt-get here; install Coq 8.16 by your system's means, coqidetop has to be on PATH" >&2
    exit 2
fi
root=""
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get install -y --no-install-recommends coq
coqc --print-version
