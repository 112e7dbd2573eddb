"""The web application behind `reasoner view`: pages and JSON of named runs, read anew at each question, nothing written."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from reasoner.registry import UserError
from reasoner.report.style import CSS
from reasoner.tree import Tree
from reasoner.viewing.labels import Labelled, read_labels
from reasoner.viewing.pages import cost_page, curves_page, shell
from reasoner.viewing.runs import Run, read_run
from reasoner.viewing.texts import decoder
from reasoner.viewing.trees import Decode, chains, chosen, drawn, one_tree, overview, told

LOCAL = ("127.0.0.1", "localhost")
STATIC = Path(__file__).parent / "static"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PAGE = 50  # chains at a time
# Nothing inline and nothing from elsewhere: what a model wrote could act in no way even where it reached the page as markup.
SOURCES = ("script", "style", "img", "connect")
HEADERS = {
    "content-security-policy": "default-src 'none'; "
    + "; ".join(f"{kind}-src 'self'" for kind in SOURCES)
    + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

logger = logging.getLogger(__name__)


def application(folders: Mapping[str, Path]) -> Starlette:
    """GET alone, for this machine alone; what cannot be read is a line with status 422."""

    @lru_cache(maxsize=8)
    def decode_of(folder: Path):
        return decoder(folder.parent.parent, folder)

    @lru_cache(maxsize=2)  # a stage's trees as they lie in its files at that time
    def searched(folder: Path, files: tuple[tuple[str, int], ...]) -> list[dict[str, Any]]:
        return chains(folder)

    def all_runs() -> list[Run]:
        return [read_run(name, folder) for name, folder in folders.items()]

    def trees(asked: Mapping[str, str]) -> Any:
        return overview(_folder(folders, asked))

    def asked_for(asked: Mapping[str, str]) -> tuple[Tree, Decode, Labelled]:
        folder, shard = _folder(folders, asked), _number(asked, "shard")
        found = one_tree(folder, shard, _number(asked, "row"))
        return found, decode_of(folder), read_labels(folder, shard, found)

    def tree(asked: Mapping[str, str]) -> Any:
        return drawn(*asked_for(asked))

    def node(asked: Mapping[str, str]) -> Any:
        found, decode, labelled = asked_for(asked)
        return told(found, _number(asked, "node"), decode, labelled)

    def search(asked: Mapping[str, str]) -> Any:
        folder = _folder(folders, asked)
        files = tuple((p.name, p.stat().st_mtime_ns) for p in sorted(folder.glob("*.parquet")))
        found = searched(folder, files)
        names = list(dict.fromkeys(name for chain in found for name in chain["scores"]))
        score = asked.get("score") or (names[0] if names else "")
        bounds = (_number(asked, "low", 0.0, float), _number(asked, "high", 1.0, float))
        matching = chosen(found, score, asked.get("problem", ""), asked.get("verdict", ""), *bounds)
        start = _number(asked, "start", 0)
        return {
            "scores": names, "score": score, "all": len(found), "found": len(matching), "start": start,
            "chains": matching[max(start, 0) : max(start, 0) + PAGE],
        }  # fmt: skip

    return Starlette(
        routes=[
            Route("/", lambda request: _html(lambda: curves_page(all_runs()))),
            Route("/cost", lambda request: _html(lambda: cost_page(all_runs()))),
            Route("/trees", lambda request: _html(lambda: shell("Trees", all_runs(), "trees.js"))),
            Route("/chains", lambda request: _html(lambda: shell("Chains", all_runs(), "chains.js"))),
            *(
                Route(f"/api/{name}", _json(answer))
                for name, answer in (("trees", trees), ("tree", tree), ("node", node), ("chains", search))
            ),
            Route("/static/{name}", _static),
        ],
        # another page in the user's browser must not come by a name of its own for this machine
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))],
    )


def _html(make: Callable[[], str]) -> Response:
    try:
        return HTMLResponse(make(), headers=HEADERS)
    except Exception:
        logger.exception("a page could not be made")
        return HTMLResponse("reasoner: this page could not be made; the log says why", 500, headers=HEADERS)


def _json(answer: Callable[[Mapping[str, str]], Any]) -> Callable[[Request], Response]:
    def respond(request: Request) -> Response:
        status = 200
        try:
            value = answer(request.query_params)
        except UserError as problem:
            value, status = {"error": str(problem)}, 422
        except Exception:
            logger.exception("a question could not be answered")
            value, status = {"error": "this could not be read; the log of reasoner view says why"}, 500
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return Response(text, status, HEADERS, "application/json")

    return respond


def _static(request: Request) -> Response:
    path = STATIC / request.path_params["name"]
    if path.parent != STATIC or path.suffix not in KINDS or not path.is_file():
        return Response("no such file", 404, HEADERS, "text/plain")
    text = path.read_text(encoding="utf-8")
    return Response(CSS + text if path.suffix == ".css" else text, 200, HEADERS, KINDS[path.suffix])


def _folder(folders: Mapping[str, Path], asked: Mapping[str, str]) -> Path:
    """The folder of the trees that a question is about."""
    run, stage = asked.get("run", ""), asked.get("stage", "")
    at = folders.get(run)
    known = {p.name: p for p in (at / "trees").glob("*") if p.is_dir()} if at else {}
    if stage not in known:
        raise UserError(
            f"got run {run!r} and stage {stage!r}; expected one of {', '.join(known or folders) or 'none'}"
        )
    return known[stage]


def _number(asked: Mapping[str, str], name: str, empty: Any = None, kind: Any = int) -> Any:
    text = asked.get(name, "")
    try:
        value = empty if not text and empty is not None else kind(text)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise UserError(f"got {name}={text[:40]!r}; expected a number")
