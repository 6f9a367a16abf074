"""Shows a model in a web browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from .inference import add_dtype_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub name of a model")
    parser.add_argument("--language", help="with an MMS model, its adapter for this language")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--folder", type=Path, metavar="DIR")
    add_dtype_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from ..app.model import AppModel
    from ..app.page import build_app
    from ..app.server import serve_app
    from ..serving.server import bind, url_of

    with bind(options.host, options.port) as server:
        page = build_app(AppModel.load(options.model, options.language, options.dtype), options.folder or Path())
        server.listen()
        print(f"{options.model} is shown on {url_of(server)}", flush=True)
        serve_app(page, server)
    return 0
