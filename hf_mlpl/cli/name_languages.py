"""Finds the names of a model's languages, which flashlight's checkpoints do not hold, from labelled clips.

    hf-mlpl name-languages --model m-ctc-t --data data/dev.parquet --output languages.txt

    # convert the checkpoint again, with these names
    hf-mlpl convert --from flashlight --checkpoint checkpoint_cv_finetune.bin --tokens tokens-all.lst \\
        --languages languages.txt --output named

    # or write the model with these names at once
    hf-mlpl name-languages --model m-ctc-t --data data/dev.parquet --save-model named

The model hears clips of each language, and every language gets the class that fits it best. The table shows how sure
that is: the mean probability that the clips give to the class, and the margin, by which the sum of all languages'
probabilities falls if the language gets another class. A language is unsure if its clips give another class more, or
if its margin is not above 0.5 / sqrt(clips). Its class keeps its number, such as language_17, and so do the classes
of languages without clips. A language that the model does not know may take the class of a similar one that has no
clips: give clips of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .inference import add_inference_arguments, start_inference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub name of a model")
    parser.add_argument("--data", nargs="+", required=True, help="utterance files; only audio and languages are used")
    parser.add_argument("--languages", nargs="+", help="use only these languages; default: all in the files")
    parser.add_argument(
        "--per-language", type=int, default=50, metavar="N", help="clips of each language, at most 35 s; default: 50"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("languages.txt"),
        help="file to write, with the name of a class in each line; default: languages.txt",
    )
    parser.add_argument("--save-model", type=Path, metavar="DIR", help="folder to create: the model with these names")
    add_inference_arguments(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if options.per_language < 1:
        parser.error(f"--per-language is {options.per_language}; it must be at least 1")
    if options.save_model is not None and options.save_model.exists():
        parser.error(f"--save-model {options.save_model} exists already; name a new folder, or delete it")
    from tqdm import tqdm

    from ..atomic import write_text
    from ..interop.language_names import find_language_names, names_in_order
    from ..model.configuration_mlpl import MlplConfig
    from ..text_table import aligned

    accelerator, dataset, model, processor, _ = start_inference(options)
    if model.config.model_type != MlplConfig.model_type:
        raise ValueError(
            f"{options.model}: is of type {model.config.model_type}, and only models of type mlpl tell languages apart"
        )
    with tqdm(unit=" utterances") as progress:
        found = find_language_names(
            model.eval(),
            processor,
            dataset,
            options.per_language,
            options.batch_seconds or (50.0 if accelerator.device.type == "cpu" else 200.0),
            options.num_workers or 0,
            progress,
        )
    names = names_in_order(model.config.languages, found)
    rows = [("language", "class", "probability", "margin", "clips", "")]
    for named in found:
        numbers = ("-", "-", "-")
        if named.number is not None:
            numbers = (str(named.number), f"{named.probability:.3f}", f"{named.margin:.3f}")
        rows.append((named.language, *numbers, str(named.num_clips), "" if named.is_sure else "unsure"))
    print(aligned(rows))
    sure = [named.number for named in found if named.is_sure]
    if not sure:
        raise ValueError(
            f"no language of {', '.join(options.data)} is sure, so {options.output} is not written; give clips of "
            "languages that the model knows, and more of each"
        )
    if len(sure) > 2 and sure == sorted(sure):  # `found` is sorted by name
        print(f"the classes of these {len(sure)} languages are in the order of the languages' names")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, "".join(f"{name}\n" for name in names))
    rest = f"; {len(names) - len(sure)} keep theirs" if len(sure) < len(names) else ""
    print(f"{options.output}: {len(sure)} of {len(names)} classes named{rest}")
    if options.save_model is None:
        print(f"next: hf-mlpl convert --from flashlight --languages {options.output} ..., or --save-model here")
    else:
        _save(options, names)


def _save(options: argparse.Namespace, names: list[str]) -> None:
    """Writes the model, as it is stored, with other names of languages."""
    from ..atomic import atomic_write
    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor

    model = MlplForCTC.from_pretrained(options.model)  # which start_inference has converted to --dtype
    model.config.languages = names
    with atomic_write(options.save_model) as partial:
        model.save_pretrained(partial)
        MlplProcessor.from_pretrained(options.model).save_pretrained(partial)
    print(f"{options.save_model}: the model with these names")
