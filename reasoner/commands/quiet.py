"""Keeps other libraries' bars and notices out of ours; our own warnings are one line each."""

from __future__ import annotations

import warnings


def quiet() -> None:
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module=r"(reasoner|verifiers)(\.|$)")
    warnings.formatwarning = lambda message, *_, **__: f"reasoner: {message}\n"
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
