"""Which test runs each command that the documents show, or why none does."""

# ruff: noqa: E501  (commands stand whole)

# Run here, in a folder that has what their words name; beside each a part of what it then says.
QUICK = {
    "reasoner run CONFIG": "next: reasoner view runs/my",
    "reasoner show RUN": "problems/1",
    "reasoner replay RUN method=grpo": "grpo",
    "reasoner audit RUN": "rollout",
    "reasoner evaluate --replay samples.jsonl --k 1,8": "pass@8",
    "reasoner import labels.jsonl --to OUT": "2 rows: 2 taken, 0 left out",
    "reasoner plan configs/demo.yaml": "rollout",
    "reasoner plan configs/demo.yaml --hardware H100,laptop": "laptop",
    "reasoner plan configs/demo.yaml --picture plan.svg": "sft_continued",
    "reasoner plan my.yaml --hardware mine --hardware-file machines.yaml --completion 900": "mine",
    "reasoner plan FILE --hardware H100,laptop": "laptop",
    "reasoner plan CONFIG --hardware H100": "H100",
    "reasoner doctor configs/demo.yaml": "",
    "reasoner doctor configs/smoke/from_old.yaml": "varied_arithmetic",
    "reasoner doctor my.yaml": "",
    "reasoner doctor FILE": "",
    "reasoner doctor MODEL problems.jsonl": "",
    "reasoner chat MODEL --method majority --budget 8": "tokens drawn",
    "reasoner export MODEL OUT": "AutoModelForCausalLM",
    "reasoner export MODEL OUT --to awq-ready": "right chains",
    "reasoner init my.yaml": "next: reasoner doctor my.yaml",
    "reasoner config schema": '"stages"',
    "reasoner config list": "configs/demo.yaml",
}
ENDS = {"doctor": (0, 1, 2)}  # what was found is what the exit code says
SECONDS = (  # of the quick ones: what each of them loads and reads takes longer than a second
    "reasoner plan configs/demo.yaml",
    "reasoner plan configs/demo.yaml --hardware H100,laptop",
    "reasoner doctor configs/demo.yaml",
    "reasoner doctor configs/smoke/from_old.yaml",
    "reasoner doctor MODEL problems.jsonl",
)

README_TEST = "tests/test_readme.py::test_own_problems_become_a_model_to_talk_with"
TWO = "tests/trainers/test_two_processes.py::test_a_launch_file_starts_what_it_says"
JOINED = "tests/cluster/test_ray.py::test_a_cluster_that_is_there_is_joined_by_its_address"
SLURM_RAY = (
    "tests/cluster/test_slurm_ray.py::test_ray_is_on_each_machine_and_the_run_on_the_first_with_its_address"
)
# Run by these tests, as they stand or on a smaller model.
ELSEWHERE = {
    "reasoner train configs/gsm8k/sft.yaml stages.0.model=MODEL problems.train.0.name=jsonl problems.train.0.path=my.jsonl": README_TEST,
    "reasoner train configs/gsm8k/ppo.yaml problems.train.0.name=jsonl problems.train.0.path=my.jsonl": README_TEST,
    "reasoner evaluate configs/gsm8k/evaluate.yaml stages.0.policies.0=MODEL problems.test.0.name=jsonl problems.test.0.path=other.jsonl": README_TEST,
    "reasoner chat runs/ppo/models/ppo/model": README_TEST,
    "reasoner view RUN": "tests/test_commands.py::test_servers_answer_as_the_documents_start_them",
    "reasoner view runs/demo": "tests/test_commands.py::test_servers_answer_as_the_documents_start_them",
    "reasoner view runs/demo runs/evaluate_demo": "tests/test_commands.py::test_servers_answer_as_the_documents_start_them",
    "reasoner serve MODEL --method best_of --budget 8 --prm PRM": "tests/test_commands.py::test_servers_answer_as_the_documents_start_them",
    "reasoner chat MODEL --engine '{kind: vllm, urls: [\"http://127.0.0.1:8001\"]}'": "tests/serving/test_talk_on_servers.py::test_a_chat_through_a_server_says_what_the_engine_in_this_process_would",
    "reasoner run CONFIG --supervise": "tests/test_watchdog.py::test_under_supervision_it_goes_on_to_the_end",
    "reasoner export MODEL mine.gguf --to gguf --bits 4": "tests/real/test_real_export.py::test_the_file_answers_as_the_model_does",
    "reasoner run configs/smoke/distill.yaml": "tests/test_commands.py::test_longer_commands_of_the_documents",
    "reasoner run configs/smoke/from_old.yaml": "tests/test_commands.py::test_longer_commands_of_the_documents",
    "reasoner train configs/prm/prm800k.yaml": "tests/test_commands.py::test_longer_commands_of_the_documents",
    "reasoner evaluate configs/evaluate/processbench.yaml": "tests/test_commands.py::test_longer_commands_of_the_documents",
    "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m reasoner run CONFIG": "tests/test_watchdog.py::test_torchrun_starts_all_of_them_again",
    "torchrun --max-restarts 5": "tests/test_watchdog.py::test_torchrun_starts_all_of_them_again",
    "torchrun --max-restarts 5 …": "tests/test_watchdog.py::test_torchrun_starts_all_of_them_again",
    "accelerate launch --config_file launch/accelerate/two_processes.yaml -m reasoner run CONFIG": TWO,
    "sbatch --nodes=2 launch/slurm.sh CONFIG": "tests/test_slurm.py::test_told_to_stop_it_saves_is_queued_again_and_goes_on",
    "reasoner run my.yaml --ray local": "tests/cluster/test_ray.py::test_workers_write_the_files_of_one_process",
    "reasoner run my.yaml --ray HEAD:6379": JOINED,
    "reasoner run CONFIG --ray HOST:PORT": JOINED,
    "ray start --head": JOINED,
    "sbatch --nodes=4 launch/slurm_ray.sh my.yaml": SLURM_RAY,
    "sbatch --nodes=4 launch/slurm_ray.sh CONFIG": SLURM_RAY,
    "python -m reasoner.economics.scaling": "tests/economics/test_scaling.py::test_the_table_in_the_document_is_the_scripts",
    'reasoner run CONFIG --sweep "stages.1.optimizer.lr=[1e-5, 1e-4]" --sweep "seed=[0, 1, 2]"': "tests/test_sweep.py::test_a_sweep_tells_all_settings_and_goes_on_behind_one_that_fails",
    "python -m verifiers probe": "tests/test_commands.py::test_longer_commands_of_the_documents",
}

TYPED_AGAIN = "tests/test_readme.py::test_the_transcript_runs_on_a_small_model"
ELSEWHERE |= {
    "reasoner annotate RUN --prm prm": "tests/test_commands.py::test_somebody_rates_at_a_terminal",
    "python problems.py": "tests/test_readme.py::test_the_script_of_the_transcript_keeps_a_fifth_apart",
    "reasoner train configs/gsm8k/sft.yaml stages.0.model=MODEL problems.train.0.name=jsonl problems.train.0.path=my.jsonl stages.0.epochs=6 stages.0.optimizer.lr=5e-4": TYPED_AGAIN,
    "reasoner train configs/gsm8k/ppo.yaml problems.train.0.name=jsonl problems.train.0.path=my.jsonl stages.0.rounds=2 stages.0.problems_per_round=8 stages.0.max_tokens=32": TYPED_AGAIN,
    "reasoner evaluate configs/gsm8k/evaluate.yaml stages.0.policies.0=MODEL problems.test.0.name=jsonl problems.test.0.path=other.jsonl stages.0.max_tokens=32 stages.0.num_samples=4": TYPED_AGAIN,
    "reasoner chat runs/ppo/models/ppo/model --max-tokens 32": TYPED_AGAIN,
}

DEMO = "needs the demo's models, which take ten minutes; its stages are run by "
FETCHES = "fetches packages or programs"
NOT_RUN = {
    "bash launch/quickstart.sh": "sets up an environment and trains for ten minutes; launch/wheel.sh runs the same command shortened",
    "reasoner run configs/correct.yaml": DEMO + "tests/stages/test_correction_stage.py",
    "reasoner run configs/critics.yaml": DEMO + "tests/trainers/test_critic.py",
    "reasoner run configs/distill.yaml": DEMO + "tests/trainers/test_distill.py and tests/trainers/test_two_tasks.py",
    "reasoner run configs/rounds.yaml": DEMO + "tests/stages/test_rounds.py",
    "reasoner evaluate configs/evaluate_demo.yaml": DEMO + "tests/evals and tests/stages/test_evaluate.py",
    "reasoner run configs/demo.yaml seed=1 stages.1.epochs=2": "ten minutes; launch/wheel.sh runs it shortened",
    "reasoner plan configs/demo.yaml --against runs/demo": DEMO + "tests/planning/test_plan.py",
    "python -m tests.viewing.pictures runs/demo runs/evaluate_demo": DEMO
    + "tests/viewing/test_view_in_chromium.py",
    "reasoner plan Qwen/Qwen2.5-7B --hardware H100,4090": "asks the hub; tests/planning/test_plan.py plans a folder",
    'reasoner train configs/gsm8k/ppo.yaml "stages.0.engine={kind: vllm, spawn: 1, executable: ~/vllm/bin/vllm}"': "needs vLLM: -m server",
    "torchrun --nproc_per_node 8 -m reasoner train configs/gsm8k/ppo.yaml": "needs eight GPUs",
    "torchrun --nproc_per_node 8 -m reasoner run CONFIG": "needs eight GPUs",
    "torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 -m reasoner run CONFIG": "needs two machines",
    "VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --served-model-name policy --max-model-len 4096": "needs vLLM: -m server",
    "ray start --address HEAD:6379": "needs two machines",
    "pip install 'reasoner[ray]'": FETCHES,
    "bash launch/vllm.sh ~/vllm": FETCHES,
    "bash launch/vllm.sh FOLDER": FETCHES,
    "bash launch/smollm2.sh": FETCHES,
    "bash launch/coq.sh": FETCHES,
    "bash launch/lean.sh": FETCHES,
    "reasoner run … --supervise": "no whole command",
    'python -c "import reasoner; print(reasoner.__path__[0])"': "one import",
}
# And all that begin so.
NEVER = {
    "bash launch/test.sh": "is what runs the tests",
    "python -m tests.benchmarks": "measures for minutes; that each can be imported is tests/test_benchmark_command.py's",
    "reasoner plan configs/demo.yaml --hardware laptop --against": DEMO + "tests/planning/test_plan.py",
}
