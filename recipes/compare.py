"""Puts results of `evaluate.py` side by side: CER per language, and the mean over chosen languages.

    python recipes/compare.py supervised=supervised.json final=final.json --languages nl pt ro sv-SE

The last column says how far the last results are from the first, relative to the first. With `*` in a file's name, the
results of several runs, such as one per seed, make one column: their mean, with the lowest and highest in brackets.

    python recipes/compare.py supervised=seed-*/supervised.json control=seed-*/control.json \\
        oracle=seed-*/oracle.json final=seed-*/final.json --languages nl pt --oracle oracle --control control

also says, run by run, which share of the gap from the first to the oracle each closes, and its change against the
control, both in the mean over the chosen languages.
"""

import argparse
import glob

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="results, in the order of the columns")
    parser.add_argument("--languages", nargs="+", default=[], help="languages to average apart from the others")
    parser.add_argument("--metric", choices=("cer", "wer"), default="cer")
    parser.add_argument("--oracle", metavar="NAME", help="the column that shows how low errors could be")
    parser.add_argument("--control", metavar="NAME", help="the column that others are to beat; needs --oracle")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.result_tables import comparison_table, gap_table
    from hf_mlpl.results_files import read_results

    results = {}
    for argument in arguments.results:
        name, equals, pattern = argument.partition("=")
        if not equals:
            parser.error(f"{argument!r} is not of the form NAME=FILE")
        results[name] = []
        for path in sorted(glob.glob(pattern)) if "*" in pattern else [pattern]:
            results[name].append(read_results(path))
        if not results[name]:
            raise ValueError(f"{pattern}: no such file")
    print(comparison_table(results, arguments.languages, arguments.metric))
    if arguments.oracle:
        print()
        print(gap_table(results, arguments.languages, arguments.oracle, arguments.control, arguments.metric))


if __name__ == "__main__":
    with one_line_errors():
        main()
