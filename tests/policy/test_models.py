"""The embedded model and tokenizer, saved and loaded again through the Auto classes."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from small_models import save_small_qwen
from transformers import AutoTokenizer

from reasoner.policy.models import TinyModel, load_model, load_tokenizer, make_tiny, train_tokenizer
from reasoner.registry import UserError

ROOT = Path(__file__).parent.parent.parent
TEXTS = [f"{a} + {b} = {a + b}\nThe answer is {a + b}." for a in range(30) for b in range(0, 40, 7)]
TINY = TinyModel(hidden_size=32, num_layers=2, num_heads=2, num_key_value_heads=1, intermediate_size=48)
HARD_TEXTS = [
    "12345 67890",
    "0",
    "3.14159,-2e10",
    "\n",
    "\n\n\n",
    " \n \t\n",
    "a\r\nb",
    "  leading and trailing  ",
    "x=1;y = 2  # don't, it's",
    "\\frac{1}{2} \\boxed{42}",
    "é ñ 中文 😀 \u200b",
    "\ufb01 \u212b e\u0301",
    "".join(map(chr, range(1, 128))),
    "".join(map(chr, range(128, 256))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny(TINY, TEXTS, tmp_path_factory.mktemp("tiny"))


def test_reloaded_tokenizer_gives_the_same_ids_and_text(folder):
    made, reloaded = train_tokenizer(TEXTS, TINY.vocab_size), AutoTokenizer.from_pretrained(folder)
    assert 257 < len(reloaded) == len(made) <= TINY.vocab_size
    for text in HARD_TEXTS + TEXTS:
        ids = made(text, add_special_tokens=False).input_ids
        assert reloaded(text, add_special_tokens=False).input_ids == ids
        # the tokenizer brings text to Unicode's composed form (NFC) and changes nothing else
        decoded = reloaded.decode(ids, clean_up_tokenization_spaces=False)
        assert decoded == made.backend_tokenizer.normalizer.normalize_str(text)
        if text.isascii():
            assert decoded == text


def test_every_byte_has_a_token(folder):
    tokenizer = load_tokenizer(str(folder))
    known = {tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))}
    assert sum(len(token) == 1 for token in known) == 256
    for byte in range(128):
        ids = tokenizer(chr(byte), add_special_tokens=False).input_ids
        assert len(ids) == 1 and tokenizer.decode(ids) == chr(byte)


def test_digits_are_tokens_of_their_own(folder):
    tokenizer = load_tokenizer(str(folder))
    for number in ("7", "42", "1234567890", "100000"):
        ids = tokenizer(number, add_special_tokens=False).input_ids
        assert [tokenizer.decode([i]) for i in ids] == list(number)


def test_end_of_text_is_one_token_and_pads(folder):
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer("a<|endoftext|>", add_special_tokens=False).input_ids
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_no_special_tokens_are_added(folder):
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("1 + 1").input_ids == tokenizer("1 + 1", add_special_tokens=False).input_ids


def test_reloaded_weights_are_equal_and_fixed_by_the_seed(folder, tmp_path):
    first, again = load_model(str(folder)), load_model(str(make_tiny(TINY, TEXTS, tmp_path / "again")))
    other = load_model(str(make_tiny(TINY.model_copy(update={"seed": 1}), TEXTS, tmp_path / "other")))
    assert first.dtype == torch.float32 and not first.training
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    first.save_pretrained(tmp_path / "saved")
    saved = load_model(str(tmp_path / "saved"))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, saved.state_dict()[name])


def test_tiny_model_has_the_shape_that_was_asked_for(folder):
    config = load_model(str(folder)).config
    shape = (config.hidden_size, config.num_hidden_layers, config.num_key_value_heads, config.vocab_size)
    assert shape == (32, 2, 1, 320)
    assert config.max_position_embeddings == 512 and config.tie_word_embeddings


def test_dtype(folder):
    assert load_model(str(folder), "bfloat16").dtype == torch.bfloat16


def test_a_model_saved_by_other_hands_loads(tmp_path):
    folder = save_small_qwen(tmp_path, TEXTS)
    assert load_model(str(folder)).config.vocab_size == len(load_tokenizer(str(folder)))


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_missing_folder_is_a_user_error(load, tmp_path):
    with pytest.raises(UserError, match="there is no such folder") as error:
        load(str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_without_a_model_is_a_user_error(load, tmp_path):
    with pytest.raises(UserError, match="check the files in the folder") as error:
        load(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_end_of_text_is_a_user_error(folder, tmp_path):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": None}))
    with pytest.raises(UserError, match="has no end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_a_mistyped_folder_or_stage_does_not_ask_the_hub():
    """Without a network the hub would be asked again and again, for most of a minute."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    code = """
import sys
from reasoner.policy.models import load_tokenizer
from reasoner.registry import UserError
for name in sys.argv[1:]:
    try:
        load_tokenizer(name)
    except UserError as problem:
        print(problem)
"""
    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        env["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"

        def shown(*names):
            command = [sys.executable, "-c", code, *names]
            return subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
            ).stdout

        lines = shown("ppoo", "runs/demo/models/spt/model", "tests/no-such-folder").splitlines()
        assert asked == []
        assert len(lines) == 3 and all(
            "no such folder" in line and "finished stage" in line for line in lines
        )
        assert "owner/name" in shown("owner/name") and any("owner/name" in path for path in asked)
        hub.shutdown()


def test_a_folder_that_lost_its_tokenizer_json_is_a_user_error(folder, tmp_path):
    load_tokenizer(str(folder)).save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).is_fast
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="json missing from the folder") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
