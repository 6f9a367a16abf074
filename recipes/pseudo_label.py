"""Labels unlabelled speech with a trained model; an interrupted job goes on with the same command.

    accelerate launch recipes/pseudo_label.py --model runs/supervised/model --data data/unlabelled.parquet \\
        --output labels

writes labels/labels.parquet, which training takes like any utterance file, and labels/complete.json last. No text is
needed; each label comes with scores, and utterances that cannot be read are counted, never fatal. --dtype bfloat16 is
several times as fast on a GPU, and on processors that have it.

    accelerate launch recipes/pseudo_label.py --model user/teacher-sl --data data/unlabelled.parquet --languages sl \
        --output labels/sl --push-to-hub user/voxpopuli-pl

also makes them the language `sl` of that data set on the Hub, and leaves its other languages as they are. What is
labelled already is only pushed; recipes/publish_labels.py does that without the model.
"""

import argparse
import logging
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors
from hf_mlpl.precision import add_dtype_argument, convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of the teacher")
    parser.add_argument("--data", nargs="+", required=True, help="utterance files; texts are compared with the labels")
    parser.add_argument("--languages", nargs="+", help="label only these; by default all that are there")
    parser.add_argument("--output", type=Path, required=True, help="folder for shards and labels.parquet")
    add_dtype_argument(parser)
    parser.add_argument("--batch-seconds", type=float, help="audio of one forward (default: 200, on a CPU 50)")
    parser.add_argument(
        "--num-workers", type=int, help="processes that decode audio (default: up to 8, for a CPU none)"
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="data set for the labels, such as user/voxpopuli-pl")
    parser.add_argument("--private", action="store_true", help="of a data set that has to be made")
    parser.add_argument("--with-audio", action="store_true", help="push the audio, too: some 60 MB an hour")
    parser.add_argument("--allow-empty", action="store_true", help="push languages whose labels are all empty, too")
    parser.add_argument("--filters", type=Path, help="YAML file: what the pushed labels' column `kept` says")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    import torch
    from accelerate import Accelerator

    from hf_mlpl import MlplForCTC, MlplProcessor
    from hf_mlpl.corpora.sources import sources_of
    from hf_mlpl.corpora.utterances import read_utterances
    from hf_mlpl.label_filters import read_filters
    from hf_mlpl.label_sets import push_label_set
    from hf_mlpl.missing_model import check_model
    from hf_mlpl.processing_mlpl import check_parts
    from hf_mlpl.pseudo_label import all_empty, pseudo_label, teacher_revision

    filters = read_filters(arguments.filters) if arguments.filters else []
    logging.basicConfig(format="%(message)s")

    accelerator = Accelerator(cpu=arguments.dtype == "int8" or not torch.accelerator.is_available())
    dataset = read_utterances(arguments.data, arguments.languages)
    check_model(arguments.model)
    processor = MlplProcessor.from_pretrained(arguments.model)
    model = MlplForCTC.from_pretrained(arguments.model)
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    teacher = teacher_revision(model, arguments.model)
    model = convert(model.to(accelerator.device), arguments.dtype)
    summary = pseudo_label(
        accelerator,
        model,
        processor,
        dataset,
        arguments.output,
        teacher,
        arguments.batch_seconds,
        arguments.num_workers,
        sources_of(arguments.data),
    )
    for language, counts in summary["languages"].items():
        accelerator.print(
            f"{language}: {counts['labels']} labels, {counts['hours']:.2f} h, {counts['empty']} empty, "
            f"mean log-probability {counts['mean_log_prob']:.3f}"
            + (f", CER {counts['cer']:.1%} against the texts that are known" if counts["cer"] is not None else "")
        )
        if all_empty(counts):
            accelerator.print(
                f"{language}: all labels are empty, the teacher hears nothing; look at its error rates before training"
            )
    path = arguments.output / "labels.parquet"
    accelerator.print(f"labels: {path}, by {summary['teacher']}; {summary['errors']} utterances could not be read")
    if arguments.push_to_hub and accelerator.is_main_process:
        options = filters, arguments.with_audio, arguments.private, arguments.allow_empty
        for line in push_label_set(arguments.output, arguments.push_to_hub, *options):
            print(line, flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
