"""Writes utterance files as a manifest of NeMo or lhotse, for training and scoring with those programs.

    # a manifest of NeMo; its rows have audio_filepath, offset, duration, text, lang, speaker
    hf-mlpl export-manifest data/train.parquet --to nemo --output train_manifest.json

    # recordings.jsonl.gz, supervisions.jsonl.gz and cuts.jsonl.gz of lhotse, in a new folder
    hf-mlpl export-manifest data/train.parquet --to lhotse --output manifests

    # pseudo-labels of several languages, with copies of the audio that is in archives
    hf-mlpl export-manifest labels/*/labels.parquet --to nemo --output labels.json --copies audio

Files stay where they are: a manifest has their paths, and the times of parts. Audio in archives and Parquet files has
no path. Its utterances are left out and counted, unless --copies names a folder for them. Labels without audio, such
as those on the Hub, become an utterance file by `hf-mlpl join-labels`. `hf-mlpl prepare-data --manifests` reads what
this command writes.
"""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("utterances", nargs="+", help="utterance files, and labels.parquet of `hf-mlpl pseudo-label`")
    parser.add_argument("--to", dest="target", choices=["nemo", "lhotse"], required=True, help="form of the manifest")
    parser.add_argument("--output", type=Path, required=True, help="file for NeMo, new folder for lhotse")
    parser.add_argument(
        "--copies", type=Path, metavar="DIR", help="folder for utterances in archives or Parquet files, as FLAC"
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.reading import drop_reasons
    from ..interop.manifests import IN_CONTAINER, export_manifest

    report = export_manifest(options.utterances, options.output, options.target, options.copies)
    print(f"{options.output}: {report.utterances} utterances, {report.seconds / 3600:.2f} h")
    for line in report.problems:
        print(f"error: {line}", file=sys.stderr)
    if report.left_out:
        way_out = "; --copies DIR writes their audio to files" if IN_CONTAINER in report.left_out else ""
        print(f"left out: {drop_reasons(report.left_out)}{way_out}", file=sys.stderr)
