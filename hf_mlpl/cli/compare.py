"""`hf-mlpl compare`: results of several models, side by side."""

from __future__ import annotations

import argparse
import glob

HELP = "put the results of several models side by side"
DESCRIPTION = """Puts results of `hf-mlpl evaluate` side by side: CER per language, and the mean over chosen languages.

    hf-mlpl compare supervised=supervised.json final=final.json --languages nl pt ro sv-SE

The last column says how far the last results are from the first, relative to the first. With `*` in a file's name, the
results of several runs, such as one per seed, make one column: their mean, with the lowest and highest in brackets.

    hf-mlpl compare supervised=seed-*/supervised.json control=seed-*/control.json \\
        oracle=seed-*/oracle.json final=seed-*/final.json --languages nl pt --oracle oracle --control control

also says, run by run, which share of the gap from the first to the oracle each closes, and its change against the
control, both in the mean over the chosen languages.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="results, in the order of the columns")
    parser.add_argument("--languages", nargs="+", default=[], help="languages to average apart from the others")
    parser.add_argument("--metric", choices=("cer", "wer"), default="cer")
    parser.add_argument("--oracle", metavar="NAME", help="the column that shows how low errors could be")
    parser.add_argument("--control", metavar="NAME", help="the column that others are to beat; needs --oracle")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for results that cannot be read or compared."""
    from ..evaluation.results import read_results
    from ..evaluation.tables import comparison_table, gap_table

    results = {}
    for argument in options.results:
        name, equals, pattern = argument.partition("=")
        if not equals:
            parser.error(f"{argument!r} is not of the form NAME=FILE")
        paths = sorted(glob.glob(pattern)) if "*" in pattern else [pattern]
        if not paths:
            raise ValueError(f"{pattern}: no such file")
        results[name] = [read_results(path) for path in paths]
    print(comparison_table(results, options.languages, options.metric))
    if options.oracle:
        print()
        print(gap_table(results, options.languages, options.oracle, options.control, options.metric))
    return 0
