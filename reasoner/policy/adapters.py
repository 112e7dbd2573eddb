"""One frozen base, many adapters: policy, reference, critic and reward models that share one copy of the weights.

`SharedBase` holds the base and its LoRA adapters (PEFT); an `Adapter` is the causal LM as one of them makes it,
or as the base alone does, and stands wherever a causal LM does. Which adapter answers is set by each forward pass,
and set again where gradient checkpointing repeats one, so passes of several adapters may be mixed before a backward.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import (
    AuxiliaryTrainingWrapper,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from pydantic import Field
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from reasoner.config import Config
from reasoner.policy.models import (
    CONFIG_FILE,
    base_of,
    check_finite,
    is_adapter,
    load_model,
    load_tokenizer,
    note_base,
    save,
)
from reasoner.policy.recompute import recompute_layers
from reasoner.registry import UserError
from reasoner.store import read_json, whole

WEIGHTS_FILE = "adapter_model.safetensors"


class LoRA(Config):
    """Low-rank adaptation (Hu et al. 2021)."""

    r: int = Field(default=16, ge=1, description="rank")
    alpha: int = Field(default=32, ge=1, description="scale; updates are multiplied by alpha / r")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="dropout on the adapter's input, in SFT and DPO; on-policy never"
    )
    target_modules: str | list[str] = Field(default="all-linear", description="layers that get an adapter")
    four_bit: bool = Field(
        default=False,
        description="hold the base in 4 bits (NF4, QLoRA, Dettmers et al. 2023); needs pip install 'reasoner[qlora]'",
    )


def load_peft(
    path: str, lora: LoRA, name: str = "default", dtype: torch.dtype | str | None = None
) -> PeftModel:
    """The base with one trainable adapter called `name`: the one that the folder holds, or a new one that changes nothing.

    A folder whose adapter has another rank or scale than `lora` asks for is a UserError.
    """
    if not is_adapter(path):
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(load_model(path, dtype, four_bit=lora.four_bit), config, adapter_name=name)
    saved = read_json(Path(path) / CONFIG_FILE)
    if (saved["r"], saved["lora_alpha"]) != (lora.r, lora.alpha):
        raise UserError(
            f"{path} holds an adapter with r={saved['r']}, alpha={saved['lora_alpha']}; expected r={lora.r}, "
            f"alpha={lora.alpha}: set lora to the adapter's own, or merge it first (reasoner export)"
        )
    base = load_base(path, dtype, four_bit=lora.four_bit)
    return PeftModel.from_pretrained(base, path, adapter_name=name, is_trainable=True)


def load_base(path: str, dtype: torch.dtype | str | None = None, four_bit: bool = False) -> Any:
    """The base of an adapter folder, its embeddings as long as those that the adapter was trained on."""
    base = load_model(base_of(path), dtype, four_bit=four_bit)
    rows = embedding_rows(path, base)
    if rows is not None and rows != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(rows, mean_resizing=False)
    return base


def embedding_rows(path: str | Path, base: Any) -> int | None:
    """How many tokens' embeddings an adapter folder goes with; None where it does not tell.

    Its own weights tell, or else its highest trained token: then the tokenizer in the folder counts them.
    """
    layers = [_name_in(base, layer) for layer in (base.get_input_embeddings(), base.get_output_embeddings())]
    weights = load_peft_weights(str(path), device="cpu")
    for key, weight in weights.items():
        if any(f".{layer}." in key for layer in layers) and key.endswith(".weight") and "lora_" not in key:
            return weight.shape[0]
    if any("trainable_tokens" in key for key in weights) and (Path(path) / "tokenizer_config.json").is_file():
        return max(len(load_tokenizer(str(path))), base.get_input_embeddings().weight.shape[0])
    return None


def _same_embeddings(path: str | Path, peft: Any, lm: Any) -> bool:
    """Whether frozen embeddings in an adapter folder are those of the model: others would overwrite them."""
    have = {key: weight for key, weight in peft.state_dict().items() if key.endswith(".weight")}
    saved = load_peft_weights(str(path), device="cpu")
    rows = embedding_rows(path, lm)
    return (rows is None or rows == lm.get_input_embeddings().weight.shape[0]) and all(
        torch.equal(weight, have[key].cpu()) for key, weight in saved.items() if key in have
    )


def _name_in(model: Any, wanted: Any) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def load_trainable(path: str, lora: LoRA | None) -> Any:
    """What TRL's trainers take: a PEFT model, or the causal LM with all weights trainable.

    An adapter folder goes on training that adapter, also without `lora`. What is trained is float32.
    """
    if lora is not None:
        return load_peft(path, lora)
    if is_adapter(path):
        return PeftModel.from_pretrained(load_base(path), path, is_trainable=True)
    return load_model(path, torch.float32).requires_grad_(True)


def load_for_head(path: str, lora: LoRA | None, checkpointing: bool = False) -> Any:
    """A causal LM to train under a head of one's own: as an Adapter with `lora`, else with all weights.

    `checkpointing` recomputes its layers in the backward pass.
    """
    if lora is not None:
        return SharedBase(path, lora, checkpointing=checkpointing).view("policy")
    lm = load_merged(path, torch.float32).requires_grad_(True)
    if checkpointing:
        recompute_layers(lm)
    return lm


def load_merged(path: str, dtype: torch.dtype | str | None = None) -> Any:
    """A causal LM for inference; an adapter folder is merged into the base that it names."""
    if not is_adapter(path):
        return load_model(path, dtype)
    wrapped = PeftModel.from_pretrained(load_base(path, dtype), path)
    _untie_adapted(wrapped.get_base_model())
    return wrapped.merge_and_unload().eval()


def _untie_adapted(lm: Any) -> None:
    """Give the output layer weights of its own where only one of it and the embedding it is tied to has an adapter."""
    layers: list[Any] = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    adapted = [isinstance(m, BaseTunerLayer) for m in layers]
    read, write = (m.get_base_layer() if own else m for m, own in zip(layers, adapted, strict=True))
    if adapted[0] != adapted[1] and read.weight is write.weight:
        write.weight = torch.nn.Parameter(write.weight.detach().clone(), requires_grad=False)
        lm.config.get_text_config().tie_word_embeddings = False
        lm.config.tie_word_embeddings = False


def save_plain(path: str, out: Path) -> None:
    """Save a model in the plain Hugging Face format, an adapter merged into its base, with its tokenizer.

    An `out` that holds something already is a UserError.
    """
    check_new(out)
    save(load_merged(path, "auto"), load_tokenizer(path), out)


def check_new(out: Path) -> None:
    """A UserError for a folder that holds something already."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} holds something already; expected a new or an empty folder, choose another")


def save_trained(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save what was trained: an Adapter or PEFT's adapter "default" in PEFT's format, or all weights."""
    if isinstance(model, PeftModel):
        check_finite(model, "trained adapter")
        # a reference adapter that a trainer put beside it is not part of the result
        with whole(folder):
            model.save_pretrained(str(folder), selected_adapters=["default"])
            tokenizer.save_pretrained(folder)
            note_base(folder, str(model.peft_config["default"].base_model_name_or_path))
    else:
        save(model, tokenizer, folder)


class SharedBase:
    """A frozen causal LM with named adapters; one answers at a time."""

    def __init__(self, path: str, lora: LoRA, name: str = "policy", checkpointing: bool = False):
        """`path` is a model, or an adapter folder whose adapter becomes `name`. `checkpointing` recomputes layers."""
        self.peft = load_peft(path, lora, name)
        self.lm: Any = self.peft.get_base_model().eval()
        self.path = base_of(path)
        self.trained = {name}
        # a wrapper holds whole weights of an adapter's own, as those of embeddings with added tokens
        adapted = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self.layers = [m for m in self.lm.modules() if isinstance(m, adapted)]
        output = self.lm.get_output_embeddings()
        if any(layer is output for layer in self.layers if isinstance(layer, BaseTunerLayer)):
            raise UserError(
                "lora.target_modules names the output layer; expected layers inside the blocks only"
            )
        self.active: str | None = name
        self._settle()
        if checkpointing:
            recompute_layers(self.lm, self.around)

    def new(self, name: str, like: str, trained: bool = True) -> Adapter:
        """An adapter with the shape and the weights of another."""
        self.peft.add_adapter(name, self.peft.peft_config[like])
        set_peft_model_state_dict(self.peft, get_peft_model_state_dict(self.peft, adapter_name=like), name)
        return self._added(name, trained)

    def load(self, name: str, folder: str | Path, trained: bool = True) -> Adapter:
        """The adapter that a folder holds; one of another base or with other embeddings is a UserError."""
        if not self.fits(folder):
            raise UserError(
                f"{folder} is no adapter of {self.path} with its {self.lm.get_input_embeddings().weight.shape[0]} tokens; "
                "expected one that was trained on this base"
            )
        self.peft.add_adapter(name, LoraConfig.from_pretrained(str(folder)))
        set_peft_model_state_dict(self.peft, load_peft_weights(str(folder), device="cpu"), name)
        return self._added(name, trained)

    def fits(self, folder: str | Path) -> bool:
        """Whether a folder holds an adapter that was trained on this base, with the embeddings that it now has."""
        if not is_adapter(folder):
            return False
        own = base_of(folder)
        is_here = Path(own).is_dir() and Path(self.path).is_dir() and Path(own).samefile(self.path)
        return (own == self.path or is_here) and _same_embeddings(folder, self.peft, self.lm)

    def view(self, name: str | None) -> Adapter:
        """The causal LM as the adapter `name` makes it; None is the base alone."""
        return Adapter(self, name)

    def activate(self, name: str | None) -> None:
        """Let `name` answer from now on; gradients of all trained adapters stay on."""
        if name != self.active:
            for layer in self.layers:
                # PEFT's set_adapter() would also take requires_grad from every other adapter
                layer._active_adapter = [name] if name else []
            self.active = name

    def weights(self, name: str | None) -> dict[str, torch.nn.Parameter]:
        """The parameters of one adapter by a name without dots."""
        if name is None:
            return {}
        return {
            f"{full}.".replace(f".{name}.", ".").strip(".").replace(".", "_"): weight
            for full, weight in self.lm.named_parameters()
            if f".{name}." in f"{full}."
        }

    def _added(self, name: str, trained: bool) -> Adapter:
        if trained:
            self.trained.add(name)
        self._settle()
        return self.view(name)

    def _settle(self) -> None:
        """After PEFT has switched as it likes: the base frozen, trained adapters trainable, the active one active."""
        self.lm.eval()
        self.lm.requires_grad_(False)
        for name in self.trained:
            for weight in self.weights(name).values():
                weight.requires_grad_(True)
        active, self.active = self.active, ""
        self.activate(active)

    def around(self) -> tuple[Any, Any]:
        """Contexts of a checkpointed layer's forward pass and of its repetition in the backward pass."""
        name = self.active

        @contextmanager
        def again():
            self.activate(name)
            yield

        return nullcontext(), again()


class Adapter(torch.nn.Module):
    """A causal LM: the shared base with one adapter; its parameters are that adapter's alone."""

    def __init__(self, shared: SharedBase, name: str | None):
        super().__init__()
        self.weights = torch.nn.ParameterDict(shared.weights(name))
        self.shared = shared  # no submodule: the base is nobody's own
        self.name = name

    def base_model(self, **inputs: Any) -> Any:
        """The body's outputs (last_hidden_state) under this adapter."""
        self.shared.activate(self.name)
        return self.shared.lm.base_model(**inputs)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        self.shared.activate(self.name)
        return self.shared.lm(*args, **inputs)

    def __getattr__(self, key: str) -> Any:
        """Whatever else a causal LM has (config, dtype, lm_head, get_output_embeddings) is the base's."""
        if key in ("weights", "shared", "name") or key.startswith("_"):
            return super().__getattr__(key)
        return getattr(self.shared.lm, key)

    def _apply(self, fn: Any, recurse: bool = True) -> Adapter:
        """A move to another device takes the base along."""
        self.shared.lm._apply(fn)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write PEFT's format; the base alone has nothing to save (ValueError)."""
        if self.name is None:
            raise ValueError("the base without an adapter has nothing of its own to save")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.shared.peft, adapter_name=self.name)
        # copies: tied embeddings share memory, which the format has no words for
        copies = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
        save_file(copies, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = self.shared.peft.peft_config[self.name]
        config.base_model_name_or_path = self.shared.path
        config.inference_mode = True
        config.save_pretrained(str(folder))
        note_base(folder, self.shared.path)


def as_it_starts(lm: Any) -> Any:
    """A frozen copy of a causal LM; of an Adapter another one on the same base."""
    if isinstance(lm, Adapter):
        assert lm.name is not None
        return lm.shared.new("reference", like=lm.name, trained=False)
    return copy.deepcopy(lm).requires_grad_(False).eval()


def causal_lm(model: Any) -> Any:
    """The transformers model inside an Adapter or PEFT's wrapper; any other is itself."""
    if isinstance(model, Adapter):
        return model.shared.lm
    return model.get_base_model() if isinstance(model, PeftModel) else model


def activate(model: Any) -> None:
    """Let an Adapter answer when its causal LM is called directly; any other model answers as it stands."""
    if isinstance(model, Adapter):
        model.shared.activate(model.name)
