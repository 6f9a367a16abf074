"""Runs `hf-mlpl render-card`.

python recipes/render_card.py --run runs/demo/final --output model_cards/demo-final.md
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["render-card", *sys.argv[1:]]))
