"""Scores a model on labelled utterances: CER and WER of each language, and their macro average.

    hf-mlpl evaluate --model runs/final/model --data data/test.parquet --output results.json

prints a table, and writes the same numbers to results.json, and the transcripts to results.hypotheses.parquet.
`hf-mlpl report results.json` makes a page of both. The model is any CTC model, or one that writes text, such as
Whisper; docs/teachers.md says how these differ. On several GPUs:

    accelerate launch -m hf_mlpl evaluate --model runs/final/model --data data/test.parquet --output results.json
"""

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from .inference import add_inference_arguments, start_inference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub name of a model")
    parser.add_argument("--data", nargs="+", required=True, help="labelled utterance files")
    parser.add_argument("--languages", nargs="+", help="score only these languages; default: all in the files")
    parser.add_argument(
        "--unseen-in", nargs="+", default=[], help="training files: score only sentences that none of them contains"
    )
    parser.add_argument("--output", type=Path, required=True, help="results file to write, JSON")
    add_inference_arguments(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from tqdm import tqdm

    from ..atomic import write_json
    from ..corpora.sources import sources_of
    from ..data.utterances import read_utterances
    from ..evaluation.hypotheses import hypotheses_path
    from ..evaluation.scoring import evaluate_model
    from ..evaluation.speed_line import describe_speed
    from ..evaluation.tables import results_table

    accelerator, dataset, model, processor, revision = start_inference(options)
    if options.unseen_in:
        seen = set(read_utterances(options.unseen_in)["text"])
        dataset = dataset.select([row for row, text in enumerate(dataset["text"]) if text not in seen])
    share = len(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    with tqdm(total=share, unit=" utterances", disable=not accelerator.is_main_process) as progress:
        transcripts = hypotheses_path(options.output)
        results = evaluate_model(
            accelerator,
            model,
            processor,
            dataset,
            options.batch_seconds,
            options.num_workers,
            progress,
            transcripts,
            with_speed=True,
        )
    if results is not None:  # in the main process
        settings = {"model": options.model, "revision": revision, "dtype": options.dtype, "data": options.data}
        settings |= {"sources": [asdict(source) for source in sources_of(options.data)]}
        write_json(options.output, {**settings, "unseen_in": options.unseen_in, **results})
        print(results_table(results))
        print(f"speed: {describe_speed(results['speed'])}")
        print(f"results: {options.output}; transcripts: {transcripts}")
        print(f"next: hf-mlpl report {shlex.quote(str(options.output))}")
