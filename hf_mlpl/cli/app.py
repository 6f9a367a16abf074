"""Shows a model in a web browser, on http://127.0.0.1:7860 (needs the extra app).

    # record, drop or choose a recording; see its transcript and hear each word
    hf-mlpl app --model runs/demo/final/model

    # another CTC model of the Hub; one of MMS has an adapter for each language
    hf-mlpl app --model facebook/mms-1b-all --language sl

    # label folders below speech/ in the browser, also with a model that writes text
    hf-mlpl app --model openai/whisper-large-v3 --folder speech

The tab "Transcribe a recording" takes what a browser records, and files of sound or video of any length. It shows the
language with the three likeliest ones, the words in colours that say how sure the model is, and the spectrogram. A
click on a word plays it. Subtitles (srt, vtt) and JSON can be downloaded. Transcripts are those of
`hf-mlpl transcribe`.

The tab "Label a folder" labels the recordings below --folder as `hf-mlpl pseudo-label` does, and shows the labels with
their scores; the same input again goes on with an interrupted job. A model that writes text, such as Whisper, has this
tab alone.

The page asks no other machine for anything. To look at it from another machine, forward the port
(`ssh -L 7860:127.0.0.1:7860 MACHINE`). After SIGTERM or ^C the app deletes what was uploaded, and ends with exit
status 0.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from .download import announced
from .inference import add_dtype_argument, add_model_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser, "a CTC model, or of one that writes text, which can only label")
    parser.add_argument("--language", help="with an MMS model, its adapter for this language, such as sl")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="folder below which recordings may be labelled and labels written; default: the current folder, or none, "
        "and so no such tab, with a --host that other machines reach",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, for this machine alone"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on, or 0 for a free one; default: 7860")
    add_dtype_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0 after SIGTERM or SIGINT."""
    if options.folder is not None and not options.folder.is_dir():
        parser.error(f"--folder is {options.folder}; it must be a folder that exists")
    # Before gradio is imported: other users of the machine can read its usual folder, or own it
    parent = os.environ.pop("GRADIO_TEMP_DIR", None)
    with TemporaryDirectory(prefix="hf-mlpl-app-", dir=parent) as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            _show(options)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
    if any(thread.name.startswith("AnyIO") for thread in threading.enumerate()):
        os._exit(0)  # a job in work would go on for hours; the shards that it has finished stay
    return 0


def _show(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..app.model import AppModel
    from ..app.page import build_app
    from ..app.server import serve_app
    from ..serving.server import bind, url_of

    with bind(options.host, options.port) as server:  # before loading the model, which may take minutes
        logging.disable_progress_bar()
        is_private = ipaddress.ip_address(server.getsockname()[0]).is_loopback
        folder = Path() if options.folder is None and is_private else options.folder
        with announced(options.model):
            model = AppModel.load(options.model, options.language, options.dtype)
        page = build_app(model, folder)
        server.listen()
        print(f"{options.model} is shown on {url_of(server)}", flush=True)
        if not is_private:
            print("warning: everybody who reaches this address can use it", flush=True)
        serve_app(page, server)
