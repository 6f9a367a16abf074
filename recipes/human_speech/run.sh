#!/usr/bin/env bash
# Runs the recipe on human speech of one language: English digits (`en`, Free Spoken Digit Dataset), Malayalam sentences
# (`ml`, Malayalam Speech Corpus), or a table of recordings of your own. A few speakers are labelled, others unlabelled,
# and those that it is tested on are in no training data.
#
#     recipes/human_speech/run.sh FOLDER en|ml SEED ...
#     recipes/human_speech/run.sh --list TABLE --language sl --train-speakers anna ben --dev-speakers cene \
#         --test-speakers dana eva --seeds 0 1 2 [--variants FILE] [OPTION ...]
#
# recipes/human_speech/run.sh --help explains all of it, and ../README.md reports our results.
set -euo pipefail
export PYTHONPATH="$(realpath "$(dirname "$0")/../..")${PYTHONPATH:+:$PYTHONPATH}"
exec python -m recipes.human_speech "$@"
