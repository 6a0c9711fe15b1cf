"""`python -m chatlab`: the commands. A failure that a person can mend is one line and exit code 2."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from chatlab import transfer
from chatlab.errors import ConfigError
from chatlab.evaluation import cache_command as cache_evaluation
from chatlab.evaluation import calibrate_command as calibration
from chatlab.evaluation import command as history_evaluation
from chatlab.evaluation import notes_command as notes_evaluation
from chatlab.evaluation.replay import command as replay
from chatlab.evaluation.traffic import command as verdict
from chatlab.settings import import_spaces, load_settings, quieten_libraries
from chatlab.telemetry import configure_logging

BENCHMARKS = (
    "turn", "store", "cache", "browse", "page", "engine", "prompt", "notes", "verdict", "replay", "coverage",
)  # fmt: skip
EVALUATIONS = {"cache": cache_evaluation, "history": history_evaluation, "notes": notes_evaluation}
COMMANDS = {
    "calibrate": calibration.run,
    "verdict": verdict.run,
    "replay": replay.run,
    "import": transfer.run_import,
    "export": transfer.run_export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    given = _parser().parse_args(arguments)
    quieten_libraries()
    try:
        if given.command == "bench":
            return _bench(given.subject, given.json)
        settings = load_settings({name: getattr(given, name, None) for name in ("host", "port", "data_dir")})
        configure_logging(settings.log_level, settings.log_json)
        if given.command == "eval":
            EVALUATIONS[given.subject].run(given, settings)
            return 0
        if given.command in COMMANDS:
            COMMANDS[given.command](given, settings)
            return 0
        if settings.on_zero_gpu:
            import_spaces()
        from chatlab.serve import serve  # takes seconds: not for --help

        serve(settings)
    except ConfigError as error:
        print(f"chatlab: {error}", file=sys.stderr)  # noqa: T201 - a command's own words
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("chatlab", description="A chat system you can see inside.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="the web page and the REST API")
    serve.add_argument("--host", help="address to listen on (CHATLAB_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for a free one (CHATLAB_PORT)")
    serve.add_argument("--data-dir", type=Path, help="folder of everything stored (CHATLAB_DATA_DIR)")
    calibration.add_arguments(
        commands.add_parser("calibrate", help="which threshold of the cache labels allow: of a file, a log, a server")
    )
    transfer.add_import_arguments(commands.add_parser("import", help="take in the chats of a file, all or none"))
    transfer.add_export_arguments(commands.add_parser("export", help="write chats into a file"))
    verdict.add_arguments(
        commands.add_parser("verdict", help="what a cache and history strategies would have done with a chat export")
    )
    replay.add_arguments(commands.add_parser("replay", help="stored turns through other configurations, compared"))
    bench = commands.add_parser("bench", help="measure a part beside its peers (from a checkout)")
    bench.add_argument("subject", choices=BENCHMARKS)
    bench.add_argument("--json", type=Path, help="write the result here, too")
    evaluated = commands.add_parser("eval", help="measure chatlab's choices on data").add_subparsers(
        dest="subject", required=True
    )
    cache_evaluation.add_arguments(evaluated.add_parser("cache", help="the cache's decisions on labelled pairs"))
    history_evaluation.add_arguments(evaluated.add_parser("history", help="history strategies on conversations"))
    notes_evaluation.add_arguments(evaluated.add_parser("notes", help="what the notes of old turns keep"))
    return parser


def _bench(subject: str, json_file: Path | None) -> int:
    try:
        module = importlib.import_module(f"benchmarks.{subject}")
    except ModuleNotFoundError as error:
        raise ConfigError("benchmarks are not part of the installed package: run this in a checkout") from error
    module.main(json_file)
    return 0
