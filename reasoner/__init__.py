"""Train language models to reason: trees of chains of thought, verifiers, process rewards, step-level PPO."""

__version__ = "0.1.0"
