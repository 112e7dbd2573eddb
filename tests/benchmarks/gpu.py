"""What a GPU makes of the project, in one command: `python -m tests.benchmarks.gpu MODEL_FOLDER [--minutes 9]`.

The tests that are marked `gpu`; sampling by the engine beside `model.generate` and beside what the memory's bandwidth
allows at best; an update on a tree of long chains, by blocks of pairs and by a mask of all; and the stages of a shipped run
on word problems made here, cut to some rounds. A table comes last. What the minutes do not reach is left out, and the table
says so. Without a GPU all of it runs on the CPU, to try the script.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch.nn.attention.flex_attention import flex_attention

from reasoner.config import read_yaml, validate
from reasoner.data.prompting import PromptConfig, load_prompting
from reasoner.economics.hardware import Hardware, hardware_table
from reasoner.economics.speed import decode_step
from reasoner.pipeline import RunConfig, run
from reasoner.policy import flex_attention as by_blocks
from reasoner.policy.flex_attention import KERNELS, flexes
from reasoner.policy.heads import PolicyNet
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.policy.packing import Packed, pack
from reasoner.store import write_text
from reasoner.tree import Node, Problem, Tree
from tests.benchmarks.engine import STORIES, Job
from tests.benchmarks.measure import medians

ROOT = Path(__file__).parent.parent.parent
SIGNS = ("-", "-", "+", "+")  # a * b - c answers the first two of the STORIES, a * b + c the others
SIZES: dict[str, dict[str, str | int]] = {
    "sft": {"epochs": 1},
    "ppo": {"rounds": "rounds", "problems_per_round": "problems", "max_tokens": "tokens"},
    "rollout": {"num_problems": "problems", "max_tokens": "tokens"},
    "evaluate": {"max_tokens": "tokens", "num_samples": 4},
    "prm": {"epochs": 1, "holdout": 0},
    "orm": {"epochs": 1, "holdout": 0},
}  # what is cut of each kind of stage, to a number or to the option of that name


class Measured(NamedTuple):
    """A line of the table."""

    what: str
    value: str
    beside: str = ""


def marked_tests(args: argparse.Namespace) -> Iterator[Measured]:
    """The tests that need a device; on a CPU they skip themselves."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|skipped)", line)]
    yield Measured("tests marked gpu", said[-1] if said else f"exit code {done.returncode}", "all passed")
    if done.returncode:
        print(done.stdout[-4000:], flush=True)


def decoding(args: argparse.Namespace) -> Iterator[Measured]:
    """Kept tokens a second, by batch; beside generate and beside the roofline of reading weights, keys and values."""
    model = load_model(args.model, "auto" if torch.cuda.is_available() else "float32").to(device())
    prompt = PromptConfig(chat=bool(load_tokenizer(args.model).chat_template))
    prompting = load_prompting(args.model, prompt)
    machine = this_machine()
    with torch.no_grad():
        for batch in args.batches:
            sizes = argparse.Namespace(
                prompts=max(1, batch // 8),
                samples=min(8, batch),
                batch=batch,
                max_tokens=args.tokens,
                temperature=1.0,
            )
            job = Job(model, prompting, sizes)
            ours, peer = medians(job.ours, job.generate, pairs=1)
            best = ""
            if machine is not None:
                step = decode_step(
                    model.config, machine, batch, args.tokens, model.dtype.itemsize, model.dtype.itemsize
                )
                best = f", {ours / step.tokens_per_second:.0%} of the roofline"
            yield Measured(
                f"tokens/s drawn, batch {batch}",
                f"{ours:,.0f}",
                f"generate {peer:,.0f}, {ours / peer:.2f}x{best}",
            )


def attention(args: argparse.Namespace) -> Iterator[Measured]:
    """Forward and backward pass on one packed tree whose chains branch in the middle of the first, by blocks and by a mask.

    On a CPU, where the kernel by blocks has no gradients, the forward pass.
    """
    on_gpu = torch.cuda.is_available()
    net = PolicyNet(load_model(args.model, "auto" if on_gpu else "float32").to(device()))
    ids = [1 + i % 200 for i in range(args.long)]
    others = [Node(1, args.long // 2, tuple(ids)) for _ in range(args.chains - 1)]
    tree = Tree.of_prompt(Problem("long", "", "math", {}), ids[: args.long // 8])
    for node in (Node(0, args.long // 8, tuple(ids)), *others):
        tree.add(node)
    p = pack([tree], device())
    kernel = KERNELS.get(device(), lambda: flex_attention)
    found = {}
    for name, kernels in (("by blocks", {device(): kernel}), ("by a mask", {})):
        with (
            mock.patch.dict(KERNELS, kernels, clear=True),
            mock.patch.object(by_blocks, "LEAST_WIDTH", 0),
            torch.set_grad_enabled(on_gpu),
        ):
            if kernels and not flexes(net.lm, p.ids_BT.device, p.ids_BT.shape[1]):
                yield Measured("packed tree by blocks", "left out", "this model is left to masks")
                continue
            found[name], seconds, peak = timed_pass(net, p)
        yield Measured(
            f"packed tree {name}", f"{seconds:.3f} s", f"{tuple(p.ids_BT.shape)} positions, {peak}"
        )
    if len(found) == 2:
        apart = (found["by blocks"] - found["by a mask"]).abs().max()
        yield Measured("packed tree, both", f"{apart:.1e} apart", "log-probabilities at most")


def timed_pass(net: PolicyNet, p: Packed) -> tuple[torch.Tensor, float, str]:
    """Log-probabilities, the least seconds of three passes after one that compiles, and the peak of memory in words."""
    took = []
    logprobs_N = torch.zeros(0)
    for _ in range(4):
        net.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        logprobs_N = net(p.ids_BT, p.positions_BT, p.tour_B2T, p.source_N, p.target_N)[0]
        if torch.is_grad_enabled():
            logprobs_N.sum().backward()
            torch.cuda.synchronize()
        took.append(time.monotonic() - started)
    peak = (
        f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
        if torch.cuda.is_available()
        else "forward only"
    )
    return logprobs_N.detach().float().cpu(), min(took[1:]), peak


def stages(args: argparse.Namespace) -> Iterator[Measured]:
    """A shipped run, cut: seconds and tokens of each stage, and the peak of memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        config = cut(args, Path(folder))
        rows = run(config)
        ledger = json.loads((Path(config.out) / "ledger.json").read_text())
    for stage in config.stages:
        counts = sum((Counter(m) for m in ledger["counts"].get(stage.name, {}).values()), Counter())
        told = ", ".join(f"{counts[key]:,} {key}" for key in ("decoded", "scored", "trained") if counts[key])
        yield Measured(f"stage {stage.name}", f"{ledger['seconds'][stage.name]:.1f} s", told)
    for row in rows:
        if row.metric == "pass@1" and row.method == "greedy" and row.subset == "all":
            yield Measured(
                f"right greedily, {row.when}",
                f"{row.value:.1%}",
                f"of {row.n}; too few rounds to tell anything",
            )
    peak = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    yield Measured(
        "peak memory of the run",
        f"{peak / 2**30:.2f} GiB",
        "allocated" if torch.cuda.is_available() else "of the process",
    )


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Measured]]] = {
    "tests": marked_tests, "decode": decoding, "attention": attention, "stages": stages,
}  # fmt: skip


def cut(args: argparse.Namespace, folder: Path) -> RunConfig:
    """The run with this model, problems made here, and sizes that end soon."""
    raw = read_yaml(args.config)
    sets = {}
    for i, name in enumerate(raw["problems"]):
        path = folder / f"{name}.jsonl"
        write_text(path, "".join(json.dumps(p) + "\n" for p in problems(args.problems, i)))
        sets[name] = [{"name": "jsonl", "path": str(path), "extract": "last_math"}]
    own = {stage.get("name", stage["kind"]) for stage in raw["stages"]}
    for stage in raw["stages"]:
        for key, size in SIZES.get(stage["kind"], {}).items():
            stage[key] = getattr(args, size) if isinstance(size, str) else size
        if "model" in stage and stage["model"] not in own:
            stage["model"] = args.model
        for key in {"policies", "sampled"} & stage.keys():
            stage[key] = list(dict.fromkeys(p if p in own else args.model for p in stage[key]))
    alike = {"ngram": 1000}  # all are the same four stories, with other numbers
    given = {**raw, "problems": sets, "contamination": alike, "out": str(folder / "run")}
    return validate(RunConfig, given, str(args.config))


def problems(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Word problems with their answers; other seeds ask other numbers."""
    rng = random.Random(seed)
    for i in range(count):
        a, b, c = 2 + rng.randrange(9) * 2 + seed % 2, 2 + i % 7, 1 + i // 28
        sign = SIGNS[i % 4]
        answer = str(a * b - c if sign == "-" else a * b + c)
        question = STORIES[i % 4].format(a=a, b=b, c=c)
        yield {"prompt": question, "answer": answer, "solution": f"{a} * {b} {sign} {c} = {answer}"}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_machine() -> Hardware | None:
    """The table's row whose name is in the device's."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().replace(" ", "")
    return next((row for key, row in hardware_table().items() if key in name), None)


def show(table: list[Measured]) -> None:
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a model")
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs/smollm2/demo.yaml", help="run whose stages are cut"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="no part begins after these")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[8, 64, 256], help="sequences decoded at once"
    )
    for name, default in (("tokens", 128), ("rounds", 4), ("problems", 64), ("chains", 8), ("long", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    started = time.monotonic()
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    table = [
        Measured("machine", name, f"torch {torch.__version__}"),
        Measured("model", Path(args.model).name),
    ]
    failed = 0
    for part in args.parts:
        left = 60 * args.minutes - (time.monotonic() - started)
        if left <= 0:
            table.append(Measured(part, "left out", "the minutes were over"))
            continue
        print(f"{part} …", flush=True)
        try:
            for line in PARTS[part](args):
                print("  ".join(filter(None, line)), flush=True)
                table.append(line)
        except Exception as problem:  # the other parts are worth their time all the same
            failed = 1
            table.append(
                Measured(part, "FAILED", f"{type(problem).__name__}: {str(problem).splitlines()[0][:100]}")
            )

            traceback.print_exc()
    print(f"\n{time.monotonic() - started:.0f} s in all", flush=True)
    show(table)
    return failed


if __name__ == "__main__":
    sys.exit(main())
