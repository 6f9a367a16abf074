"""Runs `hf-mlpl publish-labels`.

python recipes/publish_labels.py labels/* --repo user/voxpopuli-pl
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["publish-labels", *sys.argv[1:]]))
