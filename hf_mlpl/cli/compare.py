"""Shows results of `hf-mlpl evaluate` side by side, and says which differences between them are real.

    hf-mlpl compare supervised=supervised.json final=final.json --languages nl pt ro sv-SE

shows the error rate of each language, and the mean over the chosen languages. The columns on the right show the change
from the first results to the last, relative and in percentage points, with the 95 % interval of the latter. A
difference is real if its interval leaves out 0: other utterances of the same kind would show it, too. The interval
comes from the transcripts beside the results (`final.hypotheses.parquet`), by a bootstrap over utterances, which are
paired by id. Without transcripts, of other utterances, and of fewer than 10 in a language it is not known. Of 20
languages whose models are equally good, the interval of one leaves out 0. `perhaps` stands where that may be the
reason: among equally good models a language is called real by mistake in 5 % of comparisons, whatever their number of
languages.

`--metric normalized_wer` compares the word error rates of normalised texts, which leaderboards show. Write `*` in a
file's name to put the results of several runs, such as one per seed, into one column: it shows their mean, with the
lowest and highest in brackets; the intervals are those of the means of these runs.

    hf-mlpl compare supervised=seed-*/supervised.json control=seed-*/control.json \\
        oracle=seed-*/oracle.json final=seed-*/final.json --languages nl pt --oracle oracle --control control

says also which differences between the last results and the control are real. --oracle adds a second table: for each
run, the share of the gap from the first model to the oracle that each model closes, and its change against the
control, both for the mean over the chosen languages. `hf-mlpl report` shows runs side by side on a page.
"""

import argparse
import glob
import sys
from pathlib import Path
from textwrap import TextWrapper

wrapped = TextWrapper(118, "  ", "    ", break_long_words=False, break_on_hyphens=False).fill
METRICS = ("cer", "wer", "normalized_cer", "normalized_wer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="results, in the order of the columns")
    parser.add_argument("--languages", nargs="+", default=[], help="languages to average separately from the others")
    parser.add_argument("--metric", choices=METRICS, default="cer", help="error rate to compare; default: cer")
    parser.add_argument("--oracle", metavar="NAME", help="column that shows how low the errors could be")
    parser.add_argument("--control", metavar="NAME", help="column that the others should beat")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..evaluation.differences import differences, with_transcripts
    from ..evaluation.results import TITLES, check_normalization, read_results
    from ..evaluation.tables import check_names, comparison_table, gap_table, members_of_rows, verdict

    files: dict[str, list[str]] = {}
    for argument in options.results:
        name, equals, pattern = argument.partition("=")
        if not equals:
            parser.error(f"{argument!r} is not of the form NAME=FILE")
        if name in files:
            parser.error(f"{argument!r}: there are results called {name} already; `*` puts several runs into a column")
        files[name] = sorted(glob.glob(pattern)) if "*" in pattern else [pattern]
        if not files[name]:
            raise ValueError(f"{pattern}: no such file")
    results = {name: [read_results(path, [options.metric]) for path in paths] for name, paths in files.items()}
    check_normalization([run for each in results.values() for run in each], options.metric)
    check_names(results, options.oracle, options.control)
    rows = members_of_rows(results, options.languages)
    first, last = next(iter(results)), next(reversed(results))
    bases = [name for name in dict.fromkeys((first, options.control)) if name in results and name != last]
    runs = {
        name: [with_transcripts(Path(path), run) for path, run in zip(files[name], results[name], strict=True)]
        for name in [*bases, last]
    }
    found = {base: differences(runs[base], runs[last], rows, options.metric) for base in bases}
    print(comparison_table(results, options.languages, options.metric, found.get(first)))
    for base in bases:
        if lines := verdict(found[base]):
            print(f"\nfrom {base} to {last}, {TITLES[options.metric]}:", *map(wrapped, lines), sep="\n")
    if problem := next((run.problem for each in runs.values() for run in each if run.problem), None):
        print(f"which differences are real is not known without transcripts: {problem}", file=sys.stderr)
    if options.oracle:
        print()
        print(gap_table(results, options.languages, options.oracle, options.control, options.metric))
