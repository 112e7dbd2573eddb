"""`python -m verifiers probe [--json] [--min-isolation TIER]`: what isolation and which proof systems are here."""

import argparse
import json
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the probe suite on one slot of each kind; 0 where candidates may run, 1 where they may not."""
    parser = argparse.ArgumentParser(prog="python -m verifiers")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("probe", help="what isolation and which proof systems are here")
    probe.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    probe.add_argument(
        "--min-isolation",
        default="B",
        choices=["A", "B", "B-landlock", "C"],
        help="least tier to end with code 0",
    )
    options = parser.parse_args(arguments)

    from verifiers.proof import SYSTEMS, systems_here
    from verifiers.sandbox import pool
    from verifiers.sandbox.probe import at_least

    try:
        slot = pool.Slot("bare")
    except pool.SlotFailed as problem:
        print(json.dumps({"tier": "none", "problem": str(problem)}) if options.json else problem)
        return 1
    isolation = pool.isolation_of(slot)
    systems = systems_here()
    slot.end()
    if options.json:
        print(json.dumps({
            "tier": isolation.tier, "held": isolation.held, "layers": slot.layers, "problems": slot.problems,
            "systems": systems,
        }))  # fmt: skip
    else:
        print(f"tier {isolation.tier}   layers: {', '.join(slot.layers) or 'none'}")
        for problem in slot.problems:
            print(f"problem: {problem}")
        for name, held in isolation.held.items():
            print(f"  {name.replace('_', ' '):<22} {'held' if held else 'NOT HELD'}")
        for name, version in systems.items():
            print(f"proofs in {name:<12} {version or f'not here: {SYSTEMS[name].install}'}")
    return 0 if at_least(isolation.tier, options.min_isolation) else 1


if __name__ == "__main__":
    sys.exit(main())
