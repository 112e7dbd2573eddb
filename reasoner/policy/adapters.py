"""LoRA adapters on a frozen base, through PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field

from reasoner.config import Config
from reasoner.policy.models import load_model
from reasoner.store import read_json


class LoRA(Config):
    """Low-rank adaptation (Hu et al. 2021)."""

    r: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="scale; updates are multiplied by alpha / r")
    dropout: float = Field(0.0, description="dropout on the adapter's input")
    target_modules: str | list[str] = Field("all-linear", description="layers that get an adapter")


def load_trainable(path: str, lora: LoRA | None, dtype: str = "auto") -> tuple[Any, Any]:
    """(what to save, the causal LM to run): one and the same for full fine-tuning, a PEFT wrapper and its inside for LoRA.

    A folder that holds an adapter already goes on training that adapter, on the base that it names.
    """
    adapter_file = Path(path) / "adapter_config.json"
    if adapter_file.is_file():
        base = load_model(read_json(adapter_file)["base_model_name_or_path"], dtype)
        wrapped = PeftModel.from_pretrained(base, path, is_trainable=True)
    elif lora is not None:
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        )
        wrapped = get_peft_model(load_model(path, dtype), config)
    else:
        model = load_model(path, dtype)
        model.requires_grad_(True)
        return model, model
    return wrapped, wrapped.get_base_model()


def load_merged(path: str, dtype: str = "auto") -> Any:
    """A causal LM for inference; an adapter folder is merged into the base that it names."""
    if not (Path(path) / "adapter_config.json").is_file():
        return load_model(path, dtype)
    return load_trainable(path, None, dtype)[0].merge_and_unload().eval()
