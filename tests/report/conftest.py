import pytest

from hf_mlpl.report import comparison, evaluation_view, label_set, run


@pytest.fixture
def no_pictures(monkeypatch):
    """Leaves out the pictures, which take most of the time of a page."""
    for module in (run, comparison, evaluation_view, label_set):
        for name in [name for name in vars(module) if name.startswith("draw_")]:
            monkeypatch.setattr(module, name, lambda *values: None)
        monkeypatch.setattr(module, "to_svg", lambda figure, title: "<svg></svg>")
