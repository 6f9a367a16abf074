#!/usr/bin/env bash
# Makes the corpus of synthetic speech that recipes/README.md measures the recipe on. espeak-ng reads out short phrases in
# eight languages: four have 400 labelled utterances each, and four have 50 labelled and 600 unlabelled ones.
#
#     recipes/proof/corpus.sh && recipes/proof.sh runs/synthetic/data runs/proof "nl pt ro sv-SE" 0 1 2
#
# It takes two minutes. Another folder may be named, relative to the project's folder; the default is runs/synthetic.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${1:-runs/synthetic}
hf-mlpl demo --root "$root/corpora" --dev 25 --test 60 \
    --labelled de=400 es=400 it=400 pl=400 nl=50 pt=50 ro=50 sv-SE=50 \
    --unlabelled nl=600 pt=600 ro=600 sv-SE=600
hf-mlpl prepare-data --common-voice "$root/corpora/cv-corpus-demo" --voxpopuli "$root/corpora/voxpopuli-demo" \
    --output "$root/data"
