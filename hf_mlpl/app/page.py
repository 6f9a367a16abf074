"""Builds the page of the app: a tab that transcribes recordings, and one that labels folders of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..installation import install_command

try:
    import gradio as gr
except ImportError as error:
    raise ImportError(f"the app needs {error.name}, which comes with {install_command('app')}") from error

from markupsafe import escape

from ..error_line import error_line
from ..pages.document import clock, read_asset, render
from .labels import CLIP_RATE, Labeller, clip, label_table, score_pictures
from .model import AppModel
from .transcripts import Transcriber

TEMPLATES = Path(__file__).parent / "templates"
MODEL_QUEUE = "model"  # events of this queue run one after the other: the model computes one thing at a time
TEXT_PIXELS, SCORE_PIXELS = 230, 190  # widths of columns: a telephone shows the text and a score
UPLOADS_STAY = (3600, 86400)  # those of more than a day are removed every hour, in seconds
EXPLAINED = (OSError, ValueError, MemoryError, ImportError)  # errors whose text says what to do
# A transcript that replaces another gets elements without the listeners of the other one.
ATTACH = """
const attach = () => {
  const old = element.querySelector(".transcript");
  if (!old) return;
  const fresh = old.cloneNode(true);
  delete fresh.dataset.attached;
  old.replaceWith(fresh);
  attachTranscript(fresh);
};
attach();
watch("value", attach);
"""


def appearance() -> dict[str, Any]:
    """Returns the arguments of gradio's `launch` and `mount_gradio_app` for the looks of the page.

    The fonts are those of the reader's system: no other machine is asked for any.
    """
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        button_primary_background_fill="#0072b2",
        button_primary_background_fill_dark="#0072b2",
    )
    css = read_asset("player.css") + (TEMPLATES / "app.css").read_text(encoding="utf-8")
    return {"theme": theme, "css": css, "footer_links": [], "run_history": False}


def build_app(model: AppModel, folder: Path | None = None) -> gr.Blocks:
    """Returns the page of a model, whose looks are those of `appearance`.

    A model that writes text, such as Whisper, has no tab for single recordings: it gives no times of words.

    Args:
        folder: below which recordings may be labelled; None for no tab that labels.

    Raises:
        ValueError: for a model that writes text, without a folder.
    """
    if model.generates and folder is None:
        raise ValueError(f"{model.name}: writes text, and can only label; pass a folder, or choose a CTC model")
    title = f"{model.name} – speech to text"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=UPLOADS_STAY) as page:
        _html("header", name=model.name, languages=model.languages)
        with gr.Tabs():
            if not model.generates:
                with gr.Tab("Transcribe a recording"):
                    _transcription_tab(Transcriber(model))
            if folder is not None:
                with gr.Tab("Label a folder"):
                    _label_tab(Labeller(model, folder))
    return page


def _transcription_tab(transcriber: Transcriber) -> None:
    with gr.Row(equal_height=True):
        microphone = gr.Audio(sources=["microphone"], type="filepath", label="Record", buttons=[], editable=False)
        file = gr.File(label="Or a file: sound or video", height=150)  # of any suffix: its content decides
    script = read_asset("player.js") + ATTACH
    empty = render(TEMPLATES / "empty.html")
    view = gr.HTML(empty, elem_id="transcript", apply_default_css=False, js_on_load=script)

    def transcribe(path: str, progress: gr.Progress = gr.Progress()) -> tuple[str, None]:  # noqa: B008
        """Returns the transcript of a recording as HTML, and an empty input for the next one."""
        try:
            transcript = transcriber(
                Path(path),
                lambda seconds, total: progress(seconds / total, desc=f"{clock(seconds)} of {clock(total)}"),
            )
        except EXPLAINED as error:
            return _problem(error, path), None
        return render(TEMPLATES / "transcript_of.html", name=Path(path).name, transcript=transcript), None

    for component, event in ((microphone, microphone.stop_recording), (file, file.upload)):
        name = "transcribe" if component is file else "transcribe_recording"
        event(
            transcribe, component, [view, component], concurrency_id=MODEL_QUEUE, show_progress_on=view, api_name=name
        )


def _label_tab(labeller: Labeller) -> None:
    _html("labelling", root=labeller.root)
    with gr.Row():
        folder = gr.Textbox(label="Folder of the recordings", placeholder="talks", min_width=240)
        language = gr.Textbox(label="Language", placeholder="sl, or the names of subfolders", min_width=240)
        output = gr.Textbox(label="Folder for the labels", placeholder="talks-labels", min_width=240)
    button = gr.Button("Label", variant="primary", elem_id="label")
    summary = gr.HTML(elem_id="summary", apply_default_css=False)
    audio = gr.Audio(visible=False, interactive=False, autoplay=True, buttons=[], elem_id="clip")
    heading = "The least certain labels and their scores: choose one to hear it"
    labels = gr.Dataframe(visible=False, interactive=False, label=heading, wrap=True, elem_id="labels")
    finished = gr.State()

    def label(folder: str, language: str, output: str, progress: gr.Progress = gr.Progress(track_tqdm=True)):  # noqa: B008
        try:
            path, counts, remarks = labeller(folder, language, output)
            names, rows = label_table(path)
            pictures = score_pictures(path)
        except EXPLAINED as error:
            return _problem(error), gr.update(visible=False), gr.update(visible=False), None
        facts = {"path": path, "summary": counts, "remarks": remarks, "pictures": pictures}
        report = render(TEMPLATES / "summary.html", **facts)
        widths = [TEXT_PIXELS] + [SCORE_PIXELS] * (len(names) - 1)
        shown = gr.update(visible=True, value=rows, headers=names, column_widths=widths)
        return report, shown, gr.update(visible=False), path

    def hear(path: Path, event: gr.SelectData):
        utterance = event.row_value[-1]
        try:
            sound = clip(path, utterance)
        except EXPLAINED as error:  # the labels or the recording are gone
            raise gr.Error(str(escape(error_line(error))), print_exception=False) from error
        return gr.update(visible=True, value=(CLIP_RATE, sound), label=utterance)

    outputs = [summary, labels, audio, finished]
    inputs = [folder, language, output]
    button.click(label, inputs, outputs, concurrency_id=MODEL_QUEUE, show_progress_on=summary, api_name="label")
    labels.select(hear, finished, audio, api_visibility="private")


def _html(template: str, **values) -> gr.HTML:
    return gr.HTML(render(TEMPLATES / f"{template}.html", **values), apply_default_css=False)


def _problem(error: Exception, path: str = "") -> str:
    """Returns the HTML of an error: one line, which a screen reader reads out, with the name of an upload's path."""
    line = error_line(error)
    return render(TEMPLATES / "problem.html", line=line.replace(path, Path(path).name) if path else line)
