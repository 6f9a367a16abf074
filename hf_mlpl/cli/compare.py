"""Shows results of `hf-mlpl evaluate` side by side: the CER of each language, and the mean over chosen languages.

    hf-mlpl compare supervised=supervised.json final=final.json --languages nl pt ro sv-SE

The last column shows the relative change from the first results to the last. Write `*` in a file's name to put the
results of several runs, such as one per seed, into one column: it shows their mean, with the lowest and highest in
brackets.

    hf-mlpl compare supervised=seed-*/supervised.json control=seed-*/control.json \\
        oracle=seed-*/oracle.json final=seed-*/final.json --languages nl pt --oracle oracle --control control

adds a second table: for each run, the share of the gap from the first model to the oracle that each model closes, and
its change against the control, both for the mean over the chosen languages. `hf-mlpl report` shows runs side by side
on a page, with confidence intervals.
"""

import argparse
import glob
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="results, in the order of the columns")
    parser.add_argument("--languages", nargs="+", default=[], help="languages to average separately from the others")
    parser.add_argument("--metric", choices=("cer", "wer"), default="cer", help="error rate to compare; default: cer")
    parser.add_argument("--oracle", metavar="NAME", help="column that shows how low the errors could be")
    parser.add_argument("--control", metavar="NAME", help="column that the others should beat; needs --oracle")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..evaluation.results import read_results
    from ..evaluation.tables import comparison_table, gap_table

    results: dict[str, Sequence[dict]] = {}
    for argument in options.results:
        name, equals, pattern = argument.partition("=")
        if not equals:
            parser.error(f"{argument!r} is not of the form NAME=FILE")
        paths = sorted(glob.glob(pattern)) if "*" in pattern else [pattern]
        if not paths:
            raise ValueError(f"{pattern}: no such file")
        results[name] = [read_results(path, [options.metric]) for path in paths]
    print(comparison_table(results, options.languages, options.metric))
    if options.oracle:
        print()
        print(gap_table(results, options.languages, options.oracle, options.control, options.metric))
