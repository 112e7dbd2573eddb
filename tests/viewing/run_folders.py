"""Runs to look at: a small one with everything, one that means harm, and large ones to time."""

import json
from pathlib import Path

import yaml
from small_models import CORRECT, WRONG

from reasoner.policy.models import train_tokenizer
from reasoner.signals.step_labels import StepLabelConfig, step_labels
from reasoner.store import mark_done, put_records, write_json, write_trees
from reasoner.tree import Node, Problem, Tree

HARM = '<script>document.title="owned"</script><img src=x onerror=alert(1)>"\'>\x1b[31m\u202eevil</main>'


def save_run(folder: Path, trees: list[Tree], done: bool = True, title: str = "a run") -> Path:
    """A run with one training stage and one of judged trees."""
    judged = {"kind": "verify", "name": "verify", "model": str(folder / "model")}
    config = {"title": title, "stages": [{"kind": "sft", "name": "sft"}, judged]}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    tokenizer().save_pretrained(folder / "model")
    (folder / "stages/sft").mkdir(parents=True)
    log = [{"step": i, "stage": "sft", "sft/loss": 2.0 / (i + 1)} for i in range(40)]
    (folder / "stages/sft/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    write_json(
        folder / "ledger.json", {"counts": {"sft": {"policy": {"trained": 1234}}}, "seconds": {"sft": 7.5}}
    )
    for stage in ("sft", "verify") if done else ("sft",):
        mark_done(folder / "stages" / stage, {})
    write_trees(folder / "trees/verify", trees)
    return folder


def save_labels(
    folder: Path, shard: int, trees: list[Tree], kinds: tuple[str, ...] = ("hard", "soft")
) -> None:
    """As a stage `label` labels the trees of a shard."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["stages"].append({"kind": "label", "name": "label", "trees": "verify", "kinds": list(kinds)})
    path.write_text(yaml.safe_dump(config))
    for kind in kinds:
        records = list(step_labels(trees, StepLabelConfig(kind=kind), tokenizer().decode))
        (folder / "records/label" / kind).mkdir(parents=True)
        put_records(folder / "records/label" / kind, shard, records)


def tokenizer(known: dict = {}):  # noqa: B006  (made once)
    if not known:
        known["made"] = train_tokenizer(["3 + 4 = 7\nso the answer is 7\n"] * 4, 300)
    return known["made"]


def small_tree(number: int = 0, prompt: str = "3 + 4", text: str = "3 + 4 = 7\nso 7", name: str = "") -> Tree:
    """A chain that is right, a branch from its first step that is wrong and that the PRM likes, and one not drawn."""
    encode = lambda t: tuple(tokenizer()(t, add_special_tokens=False).input_ids)  # noqa: E731
    tree = Tree.of_prompt(
        Problem(name or f"p{number}", prompt, "math", {"answer": "7"}), list(encode("3 + 4"))
    )
    first, second = encode("3 + 4 = 7\n"), encode(text.partition("\n")[2])
    ids, other = first + second, encode("so the answer is 7")
    sampled = {"logprobs_full": (-0.5,) * len(ids), "entropy": (0.25,) * len(ids)}
    tree.add(Node(0, len(tree.nodes[0].token_ids), ids, step_ends=(len(first) - 1, len(ids) - 1), **sampled))
    tree.add(Node(1, len(first), other, step_ends=(len(other) - 1,), logprobs_full=(-1.0,) * len(other)))
    tree.add(Node(1, len(first), (), stop_reason="pruned:low", propensity=0.5))
    tree.verdicts = {1: CORRECT, 2: WRONG}
    tree.scores["prm"] = {1: [0.9, 0.8], 2: [0.95 - number / 1000]}
    return tree


def wide_tree(num_nodes: int) -> Tree:
    """A tree in which each node leaves another in the middle."""
    tree = small_tree()
    ids = tree.nodes[1].token_ids
    while len(tree.nodes) <= num_nodes:
        parent = (len(tree.nodes) * 7919) % max(len(tree.nodes) - 1, 1)
        offset = len(tree.nodes[parent].token_ids) // 2 if parent else len(tree.nodes[0].token_ids)
        node = tree.add(Node(parent, offset, ids * 3, step_ends=(4, len(ids) - 1, 3 * len(ids) - 1)))
        tree.verdicts[node] = CORRECT if node % 3 else WRONG
        tree.scores["prm"][node] = [node / 1000, 0.5, 0.25]
    return tree
