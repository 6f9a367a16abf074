"""Builds the page of the app: a tab that transcribes recordings, and one that labels folders of them."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

try:
    import gradio as gr
except ImportError as error:
    raise ImportError(f'the app needs {error.name}, which comes with pip install "hf-mlpl[app]"') from error

from ..audio.reading import AUDIO_SUFFIXES, audio_duration
from ..error_line import error_line
from .labels import Labeller, clip, table
from .recognition import Recognizer

STYLE = Path(__file__).with_name("style.css")
MODEL_QUEUE = "model"  # events in it run one after the other: the model computes one thing at a time


def appearance() -> dict[str, Any]:
    """Returns the arguments of gradio's `launch` and `mount_gradio_app` for the looks of the page.

    All of it comes from the server: the page of gradio's own themes would ask others for fonts.
    """
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return {"theme": theme, "css": STYLE.read_text(encoding="utf-8"), "footer_links": ["settings"]}


def build_app(name: str, recognizer: Recognizer | None, labeller: Labeller | None) -> gr.Blocks:
    """Returns the page.

    Args:
        name: of the model, as the page shows it.
        recognizer: for the tab of single recordings; None for a model that writes text, which gives no times of words.
        labeller: for the tab of folders; None leaves it out.
    """
    with gr.Blocks(title=f"{name} – hf_mlpl", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(f"<h1>Speech to text</h1><p>with the model <code>{html.escape(name)}</code></p>", elem_id="title")
        with gr.Tabs():
            if recognizer is not None:
                with gr.Tab("Transcribe a recording"):
                    _transcription_tab(recognizer)
            if labeller is not None:
                with gr.Tab("Label a folder"):
                    _label_tab(labeller)
    return page


def _transcription_tab(recognizer: Recognizer) -> None:
    with gr.Row(equal_height=True):
        microphone = gr.Audio(sources=["microphone"], type="filepath", label="Record", buttons=[], editable=False)
        types = ["audio", "video", *sorted(AUDIO_SUFFIXES)]
        file = gr.File(file_types=types, label="Or drop a file: sound or video of any length", height=140)
    view = gr.HTML(elem_id="transcript", apply_default_css=False)

    def transcribe(path: str | None, progress=gr.Progress()) -> str:
        if path is None:
            return ""
        try:
            total = audio_duration(path)
            result = recognizer(
                Path(path),
                lambda seconds, text: progress((round(seconds), round(max(total, seconds))), desc=text, unit="s"),
            )
        except (OSError, ValueError, MemoryError) as error:
            return problem(error)
        return f"<p>{html.escape(result['text'])}</p>"

    for source, event in ((microphone, microphone.stop_recording), (file, file.upload)):
        event(transcribe, source, view, concurrency_id=MODEL_QUEUE, api_name="transcribe" if source is file else None)


def _label_tab(labeller: Labeller) -> None:
    gr.HTML(
        "<p>Labels all recordings in a folder on the computer where the app runs, as "
        f"<code>hf-mlpl pseudo-label</code> does, in <code>{html.escape(str(labeller.root.resolve()))}</code> or below. "
        "If it was interrupted, the same input goes on. Texts beside the recordings (a.wav, a.txt) are only compared "
        "with the labels.</p>"
    )
    with gr.Row():
        folder = gr.Textbox(label="Folder of the recordings", placeholder="talks")
        language = gr.Textbox(label="Language", placeholder="sl; empty: the names of its subfolders")
        output = gr.Textbox(label="Folder for the labels", placeholder="talks-labels")
    button = gr.Button("Label", variant="primary")
    summary = gr.HTML(elem_id="summary")
    labels = gr.Dataframe(visible=False, interactive=False, wrap=True, label="The least certain labels: click to hear")
    audio = gr.Audio(visible=False, interactive=False, autoplay=True, buttons=[])
    finished = gr.State()

    def label(folder: str, language: str, output: str, progress=gr.Progress(track_tqdm=True)):
        try:
            path, counts = labeller(folder, language, output)
        except (OSError, ValueError, MemoryError) as error:
            return problem(error), gr.update(visible=False), None, gr.update(visible=False)
        names, rows = table(path)
        return _summary(path, counts), gr.update(visible=True, value=rows, headers=names), path, gr.update(visible=False)

    def hear(path: Path, event: gr.SelectData):
        rate = labeller.processor.feature_extractor.sampling_rate
        name = event.row_value[0]
        return gr.update(visible=True, value=(rate, clip(path, name, rate)), label=name)

    inputs, outputs = [folder, language, output], [summary, labels, finished, audio]
    button.click(label, inputs, outputs, concurrency_id=MODEL_QUEUE, show_progress_on=summary)
    labels.select(hear, finished, audio)


def _summary(path: Path, summary: dict) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(language)}</td><td>{counts['labels']}</td></tr>"
        for language, counts in summary["languages"].items()
    )
    return f"<table><tr><th>language</th><th>labels</th></tr>{rows}</table>"


def problem(error: Exception) -> str:
    """Returns the markup of an error: one line, which a screen reader reads out."""
    return f'<p class="problem" role="alert">{html.escape(error_line(error))}</p>'
