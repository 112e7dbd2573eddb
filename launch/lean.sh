#!/usr/bin/env bash
# Install Lean 4, its REPL and Mathlib, where a network is: bash launch/lean.sh [FOLDER]. About 10 GB; not tried by its authors,
# who had no Lean. FOLDER is ~/.cache/reasoner/lean if not given, where the verifier "proof" looks for it.
# LEAN names the version; the REPL and Mathlib are taken at the tag of that name.
set -euo pipefail
folder="${1:-$HOME/.cache/reasoner/lean}"
version="${LEAN:-v4.19.0}"
mkdir -p "$folder"
export ELAN_HOME="$folder/elan"
if [ ! -x "$ELAN_HOME/bin/lake" ]; then
    curl -sSf https://raw.githubusercontent.com/leanprover/elan/master/elan-init.sh |
        sh -s -- -y --no-modify-path --default-toolchain "leanprover/lean4:$version"
fi
export PATH="$ELAN_HOME/bin:$PATH"
for name in repl mathlib4; do
    [ -d "$folder/$name" ] ||
        git clone --depth 1 --branch "$version" "https://github.com/leanprover-community/$name" "$folder/$name"
done
(cd "$folder/repl" && lake build)
(cd "$folder/mathlib4" && lake exe cache get)
python="${PYTHON:-python3}"
(cd "$folder/mathlib4" && lake env "$python" - "$folder" "$version") <<'PY'
import json
import os
import subprocess
import sys

folder, version = sys.argv[1:]
repl = os.path.realpath(os.path.join(folder, "repl/.lake/build/bin/repl"))
toolchain = subprocess.run(["lean", "--print-prefix"], capture_output=True, text=True, check=True).stdout.strip()
row = {
    "version": f"lean {version}",
    "argv": [repl],
    "env": {"LEAN_PATH": os.environ["LEAN_PATH"], "LEAN_SYSROOT": toolchain, "HOME": "/box"},
    "visible": [os.path.realpath(os.path.join(folder, "mathlib4")), os.path.realpath(toolchain)],
    "runs": [repl],
}
with open(os.path.join(folder, "program.json"), "w", encoding="utf-8") as file:
    json.dump(row, file, indent=1)
print("Lean's REPL:", repl)
PY
