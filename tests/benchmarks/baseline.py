"""Our evaluation against a plain loop: `python -m tests.benchmarks.baseline MODEL_FOLDER [--config YAML] [key=value ...]`.

The first `--problems` of the YAML's set `test`, answered greedily by our engine and judged by our verifier; and by
`model.generate`, one prompt after the other, judged by Math-Verify, with the tokenizer's own chat template where the YAML
asks for a chat. Prints every problem on which the two differ, with both texts and verdicts, then the accuracies; the exit
code is 1 where these are more than two problems apart. With key=value the problem sets may be read from local files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner.config import apply_overrides, read_yaml, validate
from reasoner.data.prompting import load_prompting
from reasoner.data.sources import load_items
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.pipeline import RunConfig
from reasoner.policy.models import load_model
from reasoner.scoring.outcome import judge_while
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.tree import Problem, Tree

MOST_APART = 2  # problems


class Answered(NamedTuple):
    text: str
    right: bool


def ours(folder: str, config: RunConfig, problems: Sequence[Problem], max_tokens: int) -> list[Answered]:
    """By the engine and the verifier, as the stage evaluate does it."""
    prompting = load_prompting(folder, config.prompt)
    longest = max(len(prompting.prompt_ids(p.prompt)) for p in problems) + max_tokens
    engine = LocalEngine(load_model(folder), prompting.eos_ids, 64, longest, tokenizer=prompting.tokenizer)
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    growth = Growth(prompting.mark_steps, max_tokens, Sampling(0.0), 0)
    judge_while(lambda on_node: grow(trees, engine, fan(1), growth, on_node=on_node), trees, prompting.decode)
    leaves = [(t, t.leaves()[0]) for t in trees]
    return [
        Answered(prompting.decode(t.completion_ids(i)), t.verdicts[i].status == "correct") for t, i in leaves
    ]


def plain(folder: str, config: RunConfig, problems: Sequence[Problem], max_tokens: int) -> list[Answered]:
    """By generate and Math-Verify, with nothing of ours but the prompt's words and the answers."""
    from math_verify import parse
    from math_verify import verify as same

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for problem in problems:
        content = config.prompt.template.replace("{prompt}", problem.prompt)
        if config.prompt.chat:
            turns = [{"role": "system", "content": config.prompt.system}] if config.prompt.system else []
            inputs = tokenizer.apply_chat_template(
                [*turns, {"role": "user", "content": content}],
                add_generation_prompt=True, return_tensors="pt", return_dict=True,
            )  # fmt: skip
        else:
            inputs = tokenizer(content, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(
                **inputs, max_new_tokens=max_tokens, do_sample=False,
                stop_strings=config.prompt.stop or None, tokenizer=tokenizer,
            )  # fmt: skip
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right = bool(same(parse(str(problem.reference["answer"])), parse(text)))
        found.append(Answered(text, right))
    return found


def compare(folder: str, config: RunConfig, count: int, max_tokens: int) -> tuple[dict, list[dict]]:
    """The two accuracies, and the problems on which text or verdict differs."""
    problems = [i.problem for source in config.problems["test"] for i in load_items(source)]
    problems = problems[:: max(1, len(problems) // count)][:count]  # of every source
    mine, other = ours(folder, config, problems, max_tokens), plain(folder, config, problems, max_tokens)
    differing = [
        {"problem": p.prompt, "answer": p.reference["answer"], "ours": a._asdict(), "plain": b._asdict()}
        for p, a, b in zip(problems, mine, other, strict=True)
        if (a.text.strip(), a.right) != (b.text.strip(), b.right)
    ]
    numbers = {
        "problems": len(problems),
        "ours_right": sum(a.right for a in mine),
        "plain_right": sum(b.right for b in other),
        "other_text": sum(d["ours"]["text"].strip() != d["plain"]["text"].strip() for d in differing),
        "other_verdict": sum(d["ours"]["right"] != d["plain"]["right"] for d in differing),
    }
    return numbers, differing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--config", default="configs/smollm2/grpo.yaml")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    config = validate(RunConfig, apply_overrides(read_yaml(args.config), args.overrides), args.config)
    numbers, differing = compare(args.folder, config, args.problems, args.max_tokens)
    for one in differing:
        print(json.dumps(one, ensure_ascii=False), flush=True)
    print(json.dumps(numbers), flush=True)
    return int(abs(numbers["ours_right"] - numbers["plain_right"]) > MOST_APART)


if __name__ == "__main__":
    sys.exit(main())
