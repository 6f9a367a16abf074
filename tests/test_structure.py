"""Who may import whom, what importing the package must not load, and what no file may contain."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from hf_mlpl.cli.main import NAMES

from .commands import ROOT, command_of

# A file imports its own level and the levels below. Put a new file where its imports allow, as low as possible.
LEVELS = {
    0: "configuration_mlpl feature_extraction_mlpl tokenization_mlpl ctc_loss audio audio_parts mp3_frames ogg_pages"
    " header_lengths decoders"
    " containers tars text atomic subtitles one_line_errors model_files missing_model addresses pieces"
    " results_files without_ffmpeg folder_walk error_line text_table",
    1: "processing_mlpl modeling_mlpl quantization precision",
    2: "training_config rows text_arrays corpora selection batches decoding error_rate augment beam_search"
    " transcription folder_lock",
    3: "training_log run_record training checkpoints checkpoint_files saved_model run_pusher hub resume model_card"
    " model_setup optimization run_data unsharded slimipl pseudo_label label_files label_schema label_folder label_filters"
    " label_summary evaluation estimate main_process training_problems result_tables",
    4: "dataset_card label_sets label_join interop",
    5: "pipeline_mlpl pipeline_inputs registration loading_errors cli __main__ commands",
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names.split()}
# Its files are copied to a cache before they are run, so they import by full names what is installed.
STANDALONE = "metrics"

# The model side: a model repository's remote code, and all that a user of a trained model needs.
MODEL_SIDE = {"torch", "numpy", "transformers", "huggingface_hub"}
AUDIO = {"soundfile", "soxr"}
HEAVY = {"torch", "transformers", "numpy", "datasets", "accelerate", "evaluate"}  # which take seconds to import


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for folder in ("hf_mlpl", "recipes") for p in sorted((ROOT / folder).rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """Dotted absolute names of what a module of ours imports, inside functions too."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for name in (f"{origin}.{alias.name}" for alias in node.names):
                yield name if name in FILES else origin


OURS = {module: {name for name in imports(module) if name in FILES} - {module} for module in FILES}
THEIRS = {
    module: {name.partition(".")[0] for name in imports(module)} - {"hf_mlpl", *sys.stdlib_module_names}
    for module in FILES
}


def level(module: str) -> int | None:
    """Level of a module; the package's `__init__` and the recipes see everything, hence 5; None for the metrics."""
    parts = module.split(".")
    return 5 if parts[0] == "recipes" or len(parts) == 1 else LEVEL_OF.get(parts[1])


MODEL_FILES = [module for module in FILES if level(module) in (0, 1)]


def reachable(module: str) -> set[str]:
    found, new = set(), {module}
    while new:
        found |= new
        new = set().union(*(OURS[name] for name in new)) - found
    return found


def test_every_file_has_a_level():
    unknown = [m for m in FILES if level(m) is None and m.split(".")[1] != STANDALONE]
    assert not unknown, f"{unknown}: give each a level in LEVELS, the lowest that its imports allow"


def test_imports_go_downwards():
    offences = [
        f"{module} (level {level(module)}) imports {name} (level {level(name)})"
        for module, names in OURS.items()
        if level(module) is not None
        for name in names
        if level(name) is None or level(name) > level(module)
    ]
    assert not offences, offences


def test_imports_have_no_cycle():
    TopologicalSorter(OURS).prepare()  # raises a CycleError that shows the cycle
    assert "hf_mlpl.model.configuration_mlpl" in reachable("hf_mlpl.model.modeling_mlpl")


def test_metrics_import_no_neighbours():
    metrics = [module for module in FILES if module.startswith(f"hf_mlpl.{STANDALONE}.")]
    assert len(metrics) >= 2
    for module in metrics:
        assert OURS[module] == {"hf_mlpl.evaluation.error_rate"}
        nodes = ast.walk(ast.parse(FILES[module].read_bytes()))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], module


def test_labelling_does_not_import_training():
    for module in {"hf_mlpl.training.slimipl", "hf_mlpl.labels.labelling"} & FILES.keys():
        assert "hf_mlpl.training.loop" not in reachable(module), (
            f"{module} imports hf_mlpl.training.loop, perhaps indirectly"
        )


def test_sharing_does_not_import_training():
    """To convert and push a model, or to join labels, nobody waits for training's modules and libraries."""
    training = {f"hf_mlpl.{name}" for name in ("training", "training_config", "checkpoints", "run_pusher", "slimipl")}
    assert training | {"accelerate"} <= reachable_with_libraries("hf_mlpl.training.loop")
    for module in ("hf_mlpl.sharing.hub", "hf_mlpl.sharing.model_card", "hf_mlpl.cli.convert", "hf_mlpl.labels.join"):
        reached = reachable_with_libraries(module) & (training | {"accelerate"})
        assert not reached, f"{module} imports {sorted(reached)}, perhaps indirectly"


def reachable_with_libraries(module: str) -> set[str]:
    modules = reachable(module)
    return modules.union(*(THEIRS[name] for name in modules))


def test_model_side_imports_few_libraries():
    assert {"hf_mlpl.model.configuration_mlpl", "hf_mlpl.model.modeling_mlpl"} <= set(MODEL_FILES)
    more = {
        "hf_mlpl.audio.reading": AUDIO,
        "hf_mlpl.audio.decoders": AUDIO | {"av"},
        "hf_mlpl.audio.containers": {"pyarrow"},
        "hf_mlpl.audio.tar_index": {"indexed_gzip"},
    }
    allowed = {module: MODEL_SIDE | more.get(module, set()) for module in MODEL_FILES}
    offences = {module: THEIRS[module] - allowed[module] for module in MODEL_FILES if THEIRS[module] - allowed[module]}
    assert not offences, offences


def test_only_jobs_and_entry_points_know_accelerate():
    offences = [module for module in FILES if "accelerate" in THEIRS[module] and level(module) not in (3, 5)]
    assert not offences, offences


SHOW_HELP = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "recipes")  # as Python does for a script
shown = {}
for script in SCRIPTS:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__") if "/" in script else runpy.run_module(script)
    shown[script] = out.getvalue()
print(json.dumps([shown, sorted(sys.modules)]))
"""


def test_recipes_start_commands_that_teach():
    recipes = {path.relative_to(ROOT).as_posix(): command_of(path.name) for path in (ROOT / "recipes").glob("*.py")}
    shown, modules = json.loads(run(f"SCRIPTS = {[*recipes, 'hf_mlpl']}\n{SHOW_HELP}"))
    assert not HEAVY & set(modules)
    assert re.findall("^  ([a-z][a-z-]+)  +[a-z]", shown.pop("hf_mlpl"), re.MULTILINE) == NAMES
    assert set(recipes.values()) == set(NAMES) - {"transcribe", "convert", "test", "demo"}
    for script, text in shown.items():
        name = f"hf-mlpl {recipes[script]} "
        assert text.startswith(f"usage: {name}") and len(text) > 500
        assert text.count(name) > 1, f"the help of {name} shows no example"


def test_no_module_names_a_script_that_a_wheel_lacks():
    named = [module for module, path in FILES.items() if re.search(r"recipes/\w+\.py", path.read_text())]
    assert [module for module in named if module.startswith("hf_mlpl")] == []


def run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_is_light():
    assert run(f"import sys, hf_mlpl.cli.main; print({HEAVY} & set(sys.modules))") == "set()"


IMPORTED_FIRST = """
import os, sys, torch, transformers
for name in sys.argv[1:]:
    if not (child := os.fork()):  # which has torch already; to import it takes most of the time
        __import__(name)
        from hf_mlpl import MlplConfig, MlplForCTC
        assert transformers.AutoModelForCTC.from_config(MlplConfig.tiny(30, ["sl"])).__class__ is MlplForCTC
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.mark.slow
def test_what_is_registered_may_be_imported_first():
    """Its import may bring a registry, at the end of which it is registered itself: it must be whole by then."""
    parts = ("configuration", "feature_extraction", "tokenization", "processing", "modeling", "pipeline")
    run(IMPORTED_FIRST, *(f"hf_mlpl.{part}_mlpl" for part in parts), "hf_mlpl.interop.mctct")


def test_model_side_works_without_the_libraries_of_training():
    blocked = "import sys, importlib; sys.modules.update(dict.fromkeys(['datasets', 'accelerate', 'evaluate']))"
    imported = f"print([importlib.import_module(name).__name__ for name in {MODEL_FILES}])"
    assert run(f"{blocked}\n{imported}") == str(MODEL_FILES)


def test_no_file_has_a_path_of_one_machine():
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so the project's own files cannot be told from what lies beside them")
    # where a path starts, so a folder of that name below another is fine; in .gitignore a slash is the project's root
    machine = re.compile(rb"(?<![\w.})])/(?:work|root|farm|home/\w+)/")
    names = [name for name in listed.stdout.decode().split("\0") if name and name != ".gitignore"]
    assert len(names) > 10
    for path in (ROOT / name for name in names):
        if path.is_file():  # a deleted file is listed until it is committed
            found = machine.search(path.read_bytes())
            assert found is None, f"{path.relative_to(ROOT)} contains {found.group().decode()!r}"
