"""reasoner view: runs as a page in the browser."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from reasoner.registry import UserError


def view(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs, also of one under way")],
    port: Annotated[int, typer.Option(help="port at 127.0.0.1; 0 takes a free one")] = 8800,
) -> None:  # fmt: skip
    """Show runs as a local page: curves over each other, trees, chains, cost. It reads alone, for this machine alone.

    Example: reasoner view runs/demo; or reasoner view runs/demo-0 runs/demo-1 --port 0
    """
    try:
        import uvicorn

        from reasoner.viewing.app import application
    except ImportError as problem:
        raise UserError(f"view needs {problem.name}; install it: pip install 'reasoner[serve]'") from problem
    from reasoner.commands.quiet import quiet
    from reasoner.commands.serve import listen
    from reasoner.viewing.runs import named

    folders = named(runs)
    listening = listen("127.0.0.1", port)
    # tokenizers take seconds to import, which the first tree need not wait for
    threading.Thread(target=quiet, daemon=True).start()
    typer.echo(
        f"http://127.0.0.1:{listening.getsockname()[1]} shows {', '.join(folders)}; Ctrl-C ends it", err=True
    )
    config = uvicorn.Config(application(folders), log_level="warning")
    uvicorn.Server(config).run([listening])
