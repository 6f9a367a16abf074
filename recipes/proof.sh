#!/usr/bin/env bash
# Measures what each part of the recipe, and each change of its settings, is worth: trains the paper's models, a control,
# an oracle, and variants, once per seed, several at a time.
#
#     recipes/proof.sh DATA OUTPUT LANGUAGES SEED ... [--variants FILE] [--evaluate dev|test] [--jobs N] [OPTION ...]
#     recipes/proof/corpus.sh && recipes/proof.sh runs/synthetic/data runs/proof "nl pt ro sv-SE" 0 1 2
#     recipes/proof.sh runs/synthetic/data runs/variants "nl pt" 0 1 2 --variants variants.yaml \
#         --updates 1000 --later-updates 500
#
# recipes/proof.sh --help explains all of it. Paths are relative to the project's folder.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m recipes.proof "$@"
