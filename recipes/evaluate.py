"""Scores a model on labelled utterances: CER and WER per language, and their macro average.

accelerate launch recipes/evaluate.py --model runs/final/model --data data/test.parquet --output results.json
"""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors
from hf_mlpl.precision import add_dtype_argument, convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--data", nargs="+", required=True, help="labelled utterance files")
    parser.add_argument("--languages", nargs="+", help="score only these; by default all that are there")
    parser.add_argument(
        "--unseen-in", nargs="+", default=[], help="training files: score only sentences that none of them has"
    )
    parser.add_argument("--output", type=Path, required=True, help="results file, JSON")
    add_dtype_argument(parser)
    parser.add_argument("--batch-seconds", type=float, help="audio of one forward (default: 200, on a CPU 50)")
    parser.add_argument(
        "--num-workers", type=int, help="processes that decode audio (default: up to 8, for a CPU none)"
    )
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    import torch
    from accelerate import Accelerator
    from tqdm import tqdm

    from hf_mlpl import MlplForCTC, MlplProcessor
    from hf_mlpl.atomic import write_json
    from hf_mlpl.corpora.sources import sources_of
    from hf_mlpl.corpora.utterances import read_utterances
    from hf_mlpl.evaluation import evaluate_model, results_table
    from hf_mlpl.missing_model import check_model
    from hf_mlpl.processing_mlpl import check_parts
    from hf_mlpl.pseudo_label import teacher_revision

    logging.basicConfig(format="%(message)s")

    accelerator = Accelerator(cpu=arguments.dtype == "int8" or not torch.accelerator.is_available())
    dataset = read_utterances(arguments.data, arguments.languages)
    if arguments.unseen_in:
        seen = set(read_utterances(arguments.unseen_in)["text"])
        dataset = dataset.select([row for row, text in enumerate(dataset["text"]) if text not in seen])
    check_model(arguments.model)
    model = MlplForCTC.from_pretrained(arguments.model)
    processor = MlplProcessor.from_pretrained(arguments.model)
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    revision = teacher_revision(model, arguments.model)
    model = convert(model.to(accelerator.device), arguments.dtype)
    share = len(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    with tqdm(total=share, unit=" utterances", disable=not accelerator.is_main_process) as progress:
        results = evaluate_model(
            accelerator, model, processor, dataset, arguments.batch_seconds, arguments.num_workers, progress
        )
    if results is not None:
        of = {"model": arguments.model, "revision": revision, "dtype": arguments.dtype}
        of |= {"data": arguments.data, "sources": [asdict(source) for source in sources_of(arguments.data)]}
        write_json(arguments.output, {**of, "unseen_in": arguments.unseen_in, **results})
        print(results_table(results))
        print(f"results: {arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
