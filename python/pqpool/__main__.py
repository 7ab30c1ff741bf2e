"""The command line: ``python -m pqpool validate`` and ``python -m pqpool --version``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__

DESCRIPTION = "pqpool, a PostgreSQL connection pool."

VALIDATE = """\
Runs the ten documented scenarios and measures the thirteen success criteria, each for real, in about two
minutes.

Without --url it starts a throwaway PostgreSQL server, and stops and restarts it for the outages. With --url
nothing is stopped: what needs an outage is left out, and the report says so. The given role needs no more
than to connect; temporary tables are all that is written."""

EXIT_CODES = "Exit code: 0 if nothing failed, 1 if something did, 2 if nothing could be measured."

FAILED, IMPOSSIBLE, INTERRUPTED = 1, 2, 130


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="python -m pqpool", description=DESCRIPTION)
    main.add_argument("--version", action="version", version=f"pqpool {__version__}")
    commands = main.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    validate = commands.add_parser(
        "validate",
        help="run the scenarios and measure the success criteria against a real server",
        description=VALIDATE,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    validate.add_argument(
        "--url",
        help="validate against this database, e.g. postgresql://user@host:5432/database; nothing is stopped",
    )
    validate.add_argument("--report", type=Path, metavar="FILE.md", help="write the report as Markdown")
    validate.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    validate.add_argument(
        "--only", metavar="KEYS", default="", help="run these checks alone, parted by commas, e.g. 3,SC-004"
    )
    validate.add_argument(
        "--list", action="store_true", help="list the checks with their targets, and run nothing"
    )
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    main_parser = parser()
    given = main_parser.parse_args(arguments)
    if given.command is None:
        main_parser.print_help()
        return 0
    try:
        return list_checks(given.only) if given.list else validate(given)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def list_checks(only: str) -> int:
    from .validation.runner import choose_checks

    for checks in choose_checks(only.split(",")):
        for check in checks:
            needs = " (stops the server)" if check.outage else ""
            print(f"{check.key:>6}  {check.title}: {check.target}{needs}\n        {check.method}")
    return 0


def validate(given: argparse.Namespace) -> int:
    # Imported here: --help and --version need none of it.
    from .validation import progress, report, runner

    for path in (given.report, given.json):
        # Found out now rather than after two minutes.
        if path is not None and not path.absolute().parent.is_dir():
            print(
                f"{path} cannot be written: its folder does not exist. Suggestion: create it first.",
                file=sys.stderr,
            )
            return IMPOSSIBLE
    # Unwinds as Ctrl-C does, so that the server started for this run is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        result = runner.validate(given.url, given.only.split(","), out := progress.choose())
    except runner.ValidationImpossible as error:
        print(error, file=sys.stderr)
        return IMPOSSIBLE
    out.finish(result)
    for path, text in ((given.report, report.markdown), (given.json, report.as_json)):
        if path is not None:
            path.write_text(text(result), encoding="utf-8")
            out.tell(f"written: {path}")
    return FAILED if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
