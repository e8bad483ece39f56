"""`ab`: may this version replace that one? By rows sent to both, by mirrored requests, or against itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import serving_workbench as sw
from serving_workbench.commands import kinds
from serving_workbench.commands.command import Command, Place, add_instance, add_model, chosen_model
from serving_workbench.commands.parser import Parser
from serving_workbench.errors import CommandLineError

__all__ = ["AB"]

_EXAMPLES: Final = """\
    %ab digits 1 2 --data X_test --labels y_test
                                    may version 2 replace version 1? Outputs, accuracy and latency, and a verdict
    %ab digits 1 2 --data X_test --labels y_test --margin accuracy=0.005 --margin latency=20%
                                    by how much it may be worse, declared before anything is measured
    %ab digits 1 2 --data frame --labels target --slices region,age --report ab.html
    %ab digits 1 canary --data X_test --rate 500
                                    latency by interleaved blocks at 500 requests/s
    %ab digits 1 10.0.0.7:8500/digits@2 --data X_test
                                    another server
    %ab digits 1 2 --data logs/     what clients asked, out of request logs
    %ab digits --mirrored           what primary and shadow answered to the same live requests (%serve mirror)
    %ab digits 1 2 --live --for 5min
                                    half of the live requests to each, looked at all the time, until it is sure
    %ab digits 1 2 --switchback     all live requests to one version and the other in turns: what each can do alone
    %ab digits                      the tab: split, ramp and mirror by hand, compared while requests come
    %ab digits --aa --data X_test   version against itself: how often would a difference be claimed here, now?
    result = %ab digits 1 2 --data X_test --labels y_test
    result.disagreements()          the rows where they differ, with inputs and both answers
"""


def _arguments(parser: Parser) -> None:
    add_model(parser)
    arms = "version, label, other model, or host:port/model@version: A, in service, and B, the candidate"
    parser.add("arms", nargs="*", metavar="ARM", role="version", help=arms)
    rows = "variable or expression: the rows" if parser.in_notebook else "the rows: JSON, or @FILE with it"
    parser.add("--data", role="array", metavar="VAR" if parser.in_notebook else "JSON", help=f"{rows}; or request logs")
    parser.add(
        "--labels", role="array", metavar="VAR" if parser.in_notebook else "JSON", help="one per row, or a column"
    )
    parser.add(
        "--metric",
        kind=kinds.text,
        metavar="M",
        help="accuracy, top5, log_loss, mae, mse, rmse, or a function of yours (accuracy, or mae for numbers)",
    )
    parser.add(
        "--margin", action="append", kind=kinds.text, metavar="M=X", help="by how much B may be worse: accuracy=0.01"
    )
    parser.add("--slices", kind=kinds.text, metavar="COLUMNS", help="columns of the data, joined by commas")
    parser.add("--output", kind=kinds.text, metavar="NAME", help="the output that the metric is about")
    parser.add("--signature", kind=kinds.text, metavar="NAME")
    parser.add("--rate", kind=kinds.rate, metavar="R", help="latency by interleaved blocks at R requests/s")
    parser.add("--no-latency", action="store_true", help="outputs and quality only")
    live = "give half of the live requests to each version, until it is decided or --for is over"
    parser.add("--live", action="store_true", help=live)
    turns = "let the versions take turns with all requests, 24 times, for --for seconds each (1s)"
    parser.add("--switchback", action="store_true", help=turns)
    parser.add("--for", dest="seconds", kind=kinds.seconds, metavar="S", help="of --live (60s); of a block (1s)")
    parser.add("--mirrored", action="store_true", help="compare the pairs of the model's mirror")
    parser.add("--aa", action="store_true", help="compare a version with itself, 20 times")
    parser.add("--report", kind=kinds.text, role="file", metavar="FILE", help="write a self-contained HTML file")
    parser.add("--save", kind=kinds.text, role="file", metavar="FILE", help="write all of it for CompareResult.load")
    add_instance(parser)
    parser.add("--no-progress", action="store_true", help="show no bar")


def _run(arguments: argparse.Namespace, place: Place) -> Any:
    if arguments.name is not None and arguments.name.isdigit() and len(arguments.arms) < 2:
        # The only model need not be named: then its place was taken by the first arm.
        arguments.arms.insert(0, arguments.name)
        arguments.name = None
    model = chosen_model(arguments, place, "ab")
    spelled = place.spelled("ab")
    if arguments.mirrored:
        return _finish(
            sw.compare_mirrored(model, margins=arguments.margin, signature=arguments.signature), arguments, place
        )
    if arguments.live or arguments.switchback:
        return _finish(_live(model, arguments, place), arguments, place)
    if arguments.data is None and place.in_notebook and not arguments.aa:
        return _tab(model, arguments, spelled)
    if arguments.data is None:
        raise CommandLineError(f"{spelled} needs rows: --data X_test. (--mirrored needs none.)")
    data = _data(arguments, place)
    if arguments.aa:
        if len(arguments.arms) > 1:
            raise CommandLineError(f"{spelled} --aa compares one version with itself; given {len(arguments.arms)}.")
        version = _version(arguments.arms[0]) if arguments.arms else None
        return sw.aa(
            model,
            version,
            data=data,
            rate=arguments.rate,
            signature=arguments.signature,
            progress=not arguments.no_progress,
        )
    if len(arguments.arms) != 2:
        given = " ".join(arguments.arms) or "none"
        raise CommandLineError(f"{spelled} compares two: {spelled} digits 1 2 --data X_test; given {given}.")
    options: dict[str, Any] = {}
    if arguments.metric is not None:
        options["metric"] = _metric(arguments.metric, place)
    if arguments.labels is not None:
        options["labels"] = _labels(arguments.labels, data, place)
    if arguments.slices is not None:
        options["slices"] = [each for each in arguments.slices.split(",") if each]
    for name in ("output", "signature", "rate"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    result = sw.compare(
        model,
        *map(_version, arguments.arms),
        data=data,
        margins=arguments.margin,
        latency=not arguments.no_latency,
        progress=not arguments.no_progress,
        **options,
    )
    return _finish(result, arguments, place)


def _tab(model: sw.ServedModel, arguments: argparse.Namespace, spelled: str) -> Any:
    given = [
        name
        for name in ("labels", "metric", "slices", "output", "signature", "rate", "report", "save", "seconds")
        if getattr(arguments, name) is not None
    ]
    if given or arguments.no_latency:
        name = {"seconds": "for"}.get(given[0], given[0]) if given else "no-latency"
        raise CommandLineError(f"{spelled} --{name} needs rows: --data X_test. Without both, the tab opens.")
    if len(arguments.arms) > 2 or not all(each.isdigit() for each in arguments.arms):
        raise CommandLineError(f"{spelled}: arms that are not versions need rows: --data X_test.")
    return sw.ab(model, *map(int, arguments.arms), margins=arguments.margin)


def _live(model: sw.ServedModel, arguments: argparse.Namespace, place: Place) -> sw.CompareResult:
    spelled = place.spelled("ab")
    if arguments.live and arguments.switchback:
        raise CommandLineError(f"{spelled}: give --live or --switchback, not both.")
    if len(arguments.arms) != 2 or not all(each.isdigit() for each in arguments.arms):
        given = " ".join(arguments.arms) or "none"
        raise CommandLineError(
            f"{spelled}: live requests are answered by two versions of the model, by number; given {given}."
        )
    first, second = map(int, arguments.arms)
    options: dict[str, Any] = {"margins": arguments.margin, "progress": not arguments.no_progress}
    if arguments.seconds is not None:
        options["seconds"] = arguments.seconds
    if arguments.live:
        return sw.compare_live(model, first, second, **options)
    if arguments.rate is not None:
        options["rate"] = arguments.rate
    if arguments.data is not None:
        options["data"] = _data(arguments, place)
    return sw.switchback(model, first, second, **options)


def _data(arguments: argparse.Namespace, place: Place) -> Any:
    path = Path(arguments.data).expanduser()
    if path.exists() and (path.is_dir() or path.suffix == ".tfrecord"):
        return path
    return place.value(arguments.data, "--data")


def _labels(text: str, data: Any, place: Place) -> Any:
    columns = getattr(data, "columns", None)
    return text if columns is not None and text in columns else place.value(text, "--labels")


def _metric(text: str, place: Place) -> Any:
    from serving_workbench.comparison.quality import NAMES

    return text if text in NAMES or not place.in_notebook else place.value(text, "--metric")


def _version(text: str) -> Any:
    return int(text) if text.isdigit() else text


def _finish(result: sw.CompareResult, arguments: argparse.Namespace, place: Place) -> sw.CompareResult:
    if arguments.save is not None:
        place.say(f"Wrote {result.save(Path(arguments.save))}.")
    if arguments.report is not None:
        place.say(f"Wrote {result.report(Path(arguments.report))}.")
    return result


AB = Command(
    "ab",
    "Compare two versions, models or servers, and tell whether the second may replace the first.",
    _arguments,
    _run,
    magic="ab",
    examples=_EXAMPLES,
)
