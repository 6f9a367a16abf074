"""Who may import whom, what importing the package must not load, and what no file may contain."""

import ast
import functools
import importlib.util
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

from hf_mlpl.cli.main import NAMES

from .commands import ROOT, command_of

# The rooms of the house, from the ground up: a file imports its own room and those on lower floors, nothing beside it.
FLOORS = """
    error_line hardware installation lazy text_table
    storage
    remote_path
    atomic folder_lock stop_signal
    model audio figures
    training_config main_process ctc_models pages
    data
    corpora inference ngrams
    evaluation interop
    sharing serving
    labels training
    report app
    loading_errors
    registration
    hf_mlpl
    cli
    __main__ recipes
"""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS.split("\n")) for room in rooms.split()}

# The model side: a model repository's remote code, and all that a user of a trained model needs.
MODEL_SIDE = {"torch", "numpy", "transformers", "huggingface_hub"}
AUDIO = {"soundfile", "soxr"}
HEAVY = {"torch", "transformers", "numpy", "datasets", "accelerate", "evaluate"}  # which take seconds to import


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for folder in ("hf_mlpl", "recipes") for p in sorted((ROOT / folder).rglob("*.py"))}


@functools.cache
def imports(module: str) -> set[str]:
    """Returns dotted absolute names of what a module of ours imports, inside functions too."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else origin for name in names}
    return found


def ours(module: str) -> set[str]:
    """Returns the modules of ours that a module imports."""
    return {name for name in imports(module) if name in FILES} - {module}


def theirs(module: str) -> set[str]:
    """Returns the libraries that a module imports."""
    return {name.partition(".")[0] for name in imports(module)} - {"hf_mlpl", *sys.stdlib_module_names}


def room(module: str) -> str:
    """Returns the folder of a module, or the module's own name where it lies in none."""
    top, *below = module.split(".")
    return below[0] if below and top == "hf_mlpl" else top


MODEL_FILES = [module for module in FILES if room(module) in ("model", "audio")]


def reachable(module: str) -> set[str]:
    found, new = set(), {module}
    while new:
        found |= new
        new = set().union(*(ours(name) for name in new)) - found
    return found


def test_every_file_has_a_room():
    unknown = {module for module in FILES if room(module) not in FLOOR_OF}
    assert not unknown, f"{unknown}: put each into a folder, or give it a floor in FLOORS, as low as its imports allow"
    assert FLOOR_OF.keys() == {room(module) for module in FILES}


def test_imports_go_downwards():
    offences = [
        f"{module} imports {name}"
        for module in FILES
        for name in ours(module)
        if room(name) != room(module) and FLOOR_OF[room(name)] >= FLOOR_OF[room(module)]
    ]
    assert not offences, offences


@pytest.mark.parametrize("package", sorted(name for name, path in FILES.items() if path.name == "__init__.py"))
def test_packages_name_what_is_public(package):
    module = importlib.import_module(package)
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        assert name in dir(module), name
        try:
            assert not isinstance(getattr(module, name), ModuleType), name
        except ImportError as error:  # flashlight-text has no wheel for the newest Pythons
            assert "which comes with " in str(error)


def test_imports_have_no_cycle():
    TopologicalSorter({module: ours(module) for module in FILES}).prepare()  # raises a CycleError that shows the cycle
    assert "hf_mlpl.model.configuration_mlpl" in reachable("hf_mlpl.model.modeling_mlpl")


def test_metrics_import_no_neighbours():
    metrics = [module for module in FILES if ".metrics." in module]
    assert len(metrics) >= 2
    for module in metrics:
        assert ours(module) == {"hf_mlpl.evaluation.error_rate"}
        nodes = ast.walk(ast.parse(FILES[module].read_bytes()))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], module


def test_slimipl_does_not_import_the_loop():
    assert "hf_mlpl.training.loop" not in reachable("hf_mlpl.training.slimipl")


def test_sharing_does_not_import_training():
    """Spares those who convert and push a model, or join labels, training's modules and libraries."""
    training = {name for name in FILES if room(name) in ("training", "training_config")}
    assert "accelerate" in reachable_with_libraries("hf_mlpl.training.loop")
    for module in ("hf_mlpl.sharing.hub", "hf_mlpl.sharing.model_card", "hf_mlpl.cli.convert", "hf_mlpl.labels.join"):
        reached = reachable_with_libraries(module) & (training | {"accelerate"})
        assert not reached, f"{module} imports {sorted(reached)}, perhaps indirectly"


def reachable_with_libraries(module: str) -> set[str]:
    modules = reachable(module)
    return modules.union(*(theirs(name) for name in modules))


def test_model_side_imports_few_libraries():
    assert {"hf_mlpl.model.configuration_mlpl", "hf_mlpl.model.modeling_mlpl"} <= set(MODEL_FILES)
    more = {
        "hf_mlpl.audio.reading": AUDIO,
        "hf_mlpl.audio.decoders": AUDIO | {"av"},
        "hf_mlpl.audio.containers": {"pyarrow"},
        "hf_mlpl.audio.tar_index": {"indexed_gzip"},
    }
    allowed = {module: MODEL_SIDE | more.get(module, set()) for module in MODEL_FILES}
    offences = {module: beyond for module in MODEL_FILES if (beyond := theirs(module) - allowed[module])}
    assert not offences, offences


KNOW_ACCELERATE = ("main_process", "inference", "evaluation", "labels", "training", "app", "cli")


def test_only_jobs_and_entry_points_know_accelerate():
    offences = [module for module in FILES if "accelerate" in theirs(module) and room(module) not in KNOW_ACCELERATE]
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
    assert set(recipes.values()) == set(NAMES) - {"transcribe", "app", "serve", "convert", "test", "demo"}
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


IN_FORKS = """
import importlib, os, sys, torch._dynamo, torch.distributed.tensor  # here, because their imports take most of the time
def in_fork(work, name):
    if not (child := os.fork()):
        work(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
def import_without_libraries(names):
    sys.modules.update(dict.fromkeys(["datasets", "accelerate", "evaluate"]))
    assert [importlib.import_module(name).__name__ for name in names.split()] == names.split()
def import_first(name):
    importlib.import_module(name)
    from hf_mlpl import MlplConfig, MlplForCTC
    assert transformers.AutoModelForCTC.from_config(MlplConfig.tiny(30, ["sl"])).__class__ is MlplForCTC
in_fork(import_without_libraries, sys.argv[1])
import accelerate, datasets, PIL.Image, tokenizers, torch.distributed.checkpoint, torch.distributed.fsdp, transformers
assert not [name for name in sys.modules if name.startswith(("transformers.models", "transformers.pipelines"))]
for name in sys.argv[2:]:
    in_fork(import_first, name)
print(sys.argv[1:])
"""


@pytest.mark.slow
def test_modules_may_be_imported_first_and_the_model_side_alone():
    """Tests the model side without the libraries of training, and what is registered before anything else.

    The import of the latter may bring a registry, at the end of which it is registered itself: it is whole by then.
    """
    names = ("configuration", "feature_extraction", "tokenization", "processing", "modeling")
    parts = [
        *(f"model.{name}_mlpl" for name in names),
        "inference.pipeline_mlpl",
        "inference.pipeline_inputs",
        "interop.mctct",
    ]
    modules = [" ".join(MODEL_FILES), *(f"hf_mlpl.{part}" for part in parts)]
    assert run(IN_FORKS, *modules) == str(modules)


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
