"""Labels unlabelled speech with a trained model; the same command again continues an interrupted job.

    hf-mlpl pseudo-label --model runs/supervised/model --data data/unlabelled.parquet --output labels

writes labels/labels.parquet, which training reads like any utterance file, and then labels/complete.json. It needs no
texts. Each label comes with scores, and utterances that cannot be read are counted. --dtype bfloat16 is several times
as fast on GPUs and processors that support it. On several GPUs:

    accelerate launch -m hf_mlpl pseudo-label --model user/teacher-sl --data data/unlabelled.parquet --languages sl \\
        --output labels/sl --push-to-hub user/voxpopuli-pl

This also pushes the labels to the Hub, as the language `sl` of that data set; its other languages stay as they are.
If everything is labelled already, the command only pushes; `hf-mlpl publish-labels` does that without the model.
"""

import argparse
from pathlib import Path

from .inference import add_inference_arguments, start_inference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub name of the teacher")
    parser.add_argument(
        "--data", nargs="+", required=True, help="utterance files; their texts are compared with the labels"
    )
    parser.add_argument("--languages", nargs="+", help="label only these languages; default: all in the files")
    parser.add_argument("--output", type=Path, required=True, help="folder for shards and labels.parquet")
    add_inference_arguments(parser)
    parser.add_argument("--push-to-hub", metavar="REPO", help="data set for the labels, such as user/voxpopuli-pl")
    add_push_arguments(parser)


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for pushing labels, which `hf-mlpl publish-labels` also has."""
    parser.add_argument("--private", action="store_true", help="create the data set as private if it does not exist")
    parser.add_argument("--with-audio", action="store_true", help="push the audio, too: about 60 MB per hour")
    parser.add_argument("--filters", type=Path, help="YAML file of conditions that decide the column `kept`")
    parser.add_argument("--allow-empty", action="store_true", help="push languages whose labels are all empty, too")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.sources import sources_of
    from ..labels.filters import read_filters
    from ..labels.labelling import pseudo_label
    from ..labels.publishing import push_label_set

    filters = read_filters(options.filters) if options.filters else []
    accelerator, dataset, model, processor, revision = start_inference(options)
    batching = options.batch_seconds, options.num_workers
    summary = pseudo_label(
        accelerator, model, processor, dataset, options.output, revision, *batching, sources_of(options.data)
    )
    if accelerator.is_main_process:
        _report(summary, options.output / "labels.parquet")
        if options.push_to_hub:
            push_options = filters, options.with_audio, options.private, options.allow_empty
            for line in push_label_set(options.output, options.push_to_hub, *push_options):
                print(line, flush=True)


def _report(summary: dict, path: Path) -> None:
    from ..labels.folder import all_empty

    for language, counts in summary["languages"].items():
        cer = "" if counts["cer"] is None else f", CER {counts['cer']:.1%} against the known texts"
        print(
            f"{language}: {counts['labels']} labels, {counts['hours']:.2f} h, {counts['empty']} empty, "
            f"mean log-probability {counts['mean_log_prob']:.3f}{cer}"
        )
        if all_empty(counts):
            print(f"{language}: all labels are empty; check the error rates of the teacher before training")
    print(f"labels: {path}, by {summary['teacher']}; {summary['errors']} utterances could not be read")
