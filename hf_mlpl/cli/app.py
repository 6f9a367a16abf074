"""Shows a model in a web browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from .inference import _device, add_dtype_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub name of a model")
    parser.add_argument("--language", help="with an MMS model, its adapter for this language")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--folder", type=Path, metavar="DIR")
    add_dtype_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from ..app.labels import Labeller
    from ..app.page import build_app
    from ..app.recognition import Recognizer
    from ..app.server import serve_app
    from ..inference.generation import generates
    from ..inference.precision import convert
    from ..inference.recognition import load_recognizer
    from ..serving.server import bind, url_of
    from ..sharing.model_card import teacher_revision

    with bind(options.host, options.port) as server:
        model, processor = load_recognizer(options.model, [options.language] if options.language else [])
        revision = teacher_revision(model, options.model)
        model = convert(model.to(_device(options)), options.dtype)
        labeller = Labeller(model, processor, revision, options.folder or Path())
        recognizer = None if generates(model.config) else Recognizer(model, processor)
        page = build_app(options.model, recognizer, labeller)
        server.listen()
        print(f"{options.model} is shown on {url_of(server)}", flush=True)
        serve_app(page, server)
    return 0
