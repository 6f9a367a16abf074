"""Runs `hf-mlpl language-finetune`.

python recipes/language_finetune.py recipes/demo/language_finetune.yaml --labels runs/demo/labels
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["language-finetune", *sys.argv[1:]]))
