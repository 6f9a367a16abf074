"""Puts results of `evaluate.py` side by side: CER per language, and the mean over chosen languages.

    python recipes/compare.py supervised=supervised.json final=final.json --languages nl pt ro sv-SE

The last column says how far the last results are from the first, relative to the first.
"""

import argparse
import json
from pathlib import Path

from hf_mlpl.evaluation import comparison_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="NAME=FILE", help="results, in the order of the columns")
    parser.add_argument("--languages", nargs="+", default=[], help="languages to average apart from the others")
    parser.add_argument("--metric", choices=("cer", "wer"), default="cer")
    arguments = parser.parse_args()
    results = {}
    for argument in arguments.results:
        name, equals, path = argument.partition("=")
        if not equals:
            parser.error(f"{argument!r} is not of the form NAME=FILE")
        try:
            results[name] = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path}: is not JSON; recipes/evaluate.py writes results") from None
        if "languages" not in results[name]:
            raise ValueError(f"{path}: holds no results of recipes/evaluate.py")
    print(comparison_table(results, arguments.languages, arguments.metric))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
