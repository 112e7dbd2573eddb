"""Names to functions: each package has one literal table; outside code is named "package.module:function"."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """One line: what was got, what was expected, what to do. The CLI prints it and exits with 2."""


class MachineFault(Exception):
    """One line: a machine has not kept or computed what it should have. The CLI prints it and exits with 3: worth a new start."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that are spelled most like `name`, ignoring case."""
    spelling = {k.lower(): k for k in known}
    return [spelling[k] for k in difflib.get_close_matches(name.lower(), spelling, n=3)]


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The table's entry called `name`, or the import that "package.module:function" names; else UserError.

    `what` says in errors what the table holds, e.g. "verifier".
    """
    if name in table:
        return table[name]
    if ":" in name:
        return imported(name, what)
    close = nearest(name, table)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(
        f"got {what} {name!r}, {hint}expected one of: {', '.join(sorted(table))}; "
        f'name your own as "package.module:function"'
    )


def imported(name: str, what: str) -> Any:
    """What "package.module:function" names; a UserError where it is not there."""
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f'got {what} {name!r}, expected "package.module:function"; correct the name')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only the module and its parents are the config's fault; a failing import inside it is a bug there.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"got {what} {name!r}, expected an importable module, but there is none called {error.name!r}; "
            "install it or put its folder on PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        close = nearest(attribute, vars(module))
        hint = f"did you mean {' or '.join(close)}?" if close else f"define it in {module_name}"
        raise UserError(
            f"got {what} {name!r}, expected {attribute!r} in {module_name}, which has none; {hint}"
        )
    return getattr(module, attribute)
