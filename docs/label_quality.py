"""Draws images/label_quality.svg: the errors of pseudo-labels by teacher, as a table of recipes/README.md has them.

python docs/label_quality.py
"""

from __future__ import annotations

import re
from pathlib import Path

from hf_mlpl.figures import COLORS, new_figure, to_svg
from hf_mlpl.figures.style import our_style

HERE = Path(__file__).resolve().parent
SEEDS = "mean of three seeds, with the lowest and the highest"
# An image of its own has no page whose colours it could follow.
PAGE = (
    "<style>svg{color:#1b1f24;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#e6edf3;background:#1b1f24}}</style>"
)
Rates = dict[str, list[tuple[float, float, float]]]


def read_rates(page: Path) -> tuple[list[str], Rates]:
    """Returns the teachers, and for each language the mean, lowest and highest CER of each teacher's labels."""
    table = page.read_text(encoding="utf-8").partition("| CER % of the pseudo-labels |")[2].partition("\n\n")[0]
    header, _, *lines = table.replace("*", "").split("\n")
    rates = {}
    for line in lines:
        language, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rates[language] = [tuple(map(float, re.findall(r"\d+\.\d+", cell))) for cell in cells]
    return [name.strip() for name in header.strip(" |").split("|")], rates


@our_style()
def draw(teachers: list[str], rates: Rates) -> str:
    """Returns an SVG image with a point and a range for each language and teacher."""
    figure = new_figure(5, 3.4)
    axes = figure.subplots()
    for i, (teacher, color) in enumerate(zip(teachers, COLORS, strict=False)):
        for place, language in enumerate(rates):
            mean, low, high = rates[language][i]
            x = place + 0.26 * (i - (len(teachers) - 1) / 2)
            error = [[mean - low], [high - mean]]
            label = teacher if place == 0 else None
            axes.errorbar(x, mean, error, fmt="osD"[i], color=color, capsize=3, markersize=5, label=label)
            axes.annotate(f"{mean:.1f}", (x, high), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(rates)), rates)
    axes.set(ylabel="CER of the labels, %", ylim=(0, None))
    figure.legend(loc="outside upper left", ncols=len(teachers), title=f"{SEEDS}; teacher:")
    start, end, rest = to_svg(figure, f"Character error rates of pseudo-labels, in percent: {SEEDS}").partition(">")
    return start + end + PAGE + rest + "\n"


if __name__ == "__main__":
    image = draw(*read_rates(HERE.parent / "recipes" / "README.md"))
    (HERE / "images" / "label_quality.svg").write_text(image, encoding="utf-8")
