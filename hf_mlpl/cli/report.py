"""Writes a page on a training run, on several runs side by side, or on a set of pseudo-labels.

    hf-mlpl report runs/demo/final
    hf-mlpl report runs/demo/final --results runs/demo/final.json --output final.html

A run may be finished, or still be going on. Results are files of `hf-mlpl evaluate`, which writes the transcripts
beside them; without any, the page shows the run's last evaluation on dev. A file of results also has a page of its
own, `hf-mlpl report results.json`. Several runs, or several files of results:

    hf-mlpl report runs/demo/supervised runs/demo/final --output comparison.html

Each run has a column, and the change is that from the first to the last; `hf-mlpl compare` averages over seeds.

Labels are a folder of `hf-mlpl pseudo-label`, a folder of such folders, a label set, also one on the Hub, or files
of labels. Utterance files give the transcripts with which labels are compared, and the audio of a label set without:

    hf-mlpl report runs/demo/labels --utterances runs/demo/data/unlabelled.parquet --output labels.html
    hf-mlpl report my-name/voxpopuli-labels --languages sl fi --output labels.html

The page is one file with its pictures and its audio. It needs no network, and is smaller than 10 MB.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="RUN_OR_LABELS", help="output_dir of runs, files of results, or labels"
    )
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="results files of `hf-mlpl evaluate`"
    )
    parser.add_argument(
        "--utterances",
        nargs="+",
        default=[],
        metavar="FILE",
        help="utterance files of the labels: their texts are references, and their audio is heard",
    )
    parser.add_argument("--languages", nargs="+", default=[], help="languages of the labels; default: all")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="HTML file to write; default: report.html"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..atomic import write_text
    from ..remote_path import as_path
    from ..report.run_folder import is_run

    options.paths = list(map(as_path, options.paths))
    missing = [path for path in options.paths if not (path.exists() or path.is_dir())]
    first = options.paths[0]
    may_be_on_hub = len(options.paths) == 1 and isinstance(first, Path) and len(first.parts) == 2
    if missing and not (may_be_on_hub and not first.parent.exists()):
        raise ValueError(f"{missing[0]}: no such file or folder; give the output_dir of a run, or labels")
    are_runs = [isinstance(path, Path) and is_run(path) for path in options.paths]
    if any(are_runs) and not all(are_runs):
        other = options.paths[are_runs.index(False)]
        raise ValueError(f"{other} is no run, but {options.paths[are_runs.index(True)]} is; report one kind at a time")
    if are_runs[0] and (options.utterances or options.languages):
        raise ValueError("--utterances and --languages belong to labels; a run has neither")
    if len(options.paths) == 1 and are_runs[0]:
        from ..report.run import run_report

        page = run_report(options.paths[0], options.results)
    elif are_runs[0]:
        from ..report.comparison import comparison_report

        page = comparison_report(options.paths, options.results)
    else:
        from ..report.label_set import label_set_report

        if options.results:
            raise ValueError("--results belongs to runs; labels have none")
        page = label_set_report(options.paths, options.utterances, options.languages)
    write_text(options.output, page)
    print(f"report: {options.output}")
