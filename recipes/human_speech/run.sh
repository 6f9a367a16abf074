#!/usr/bin/env bash
# Runs the recipe on human speech of one language: English digits (`en`, Free Spoken Digit Dataset) or Malayalam
# sentences (`ml`, Malayalam Speech Corpus). A few speakers are labelled, others unlabelled, and the test speakers are
# in no training data. On one CPU core of a busy machine `en` took 12 minutes per seed and `ml` 46. The script skips
# what is complete.
#
#     recipes/human_speech/run.sh FOLDER en|ml SEED ...
#
# FOLDER holds ml-msc/manifest.tsv and en-fsdd/manifest.tsv: tab-separated tables with the columns path, sentence,
# language and speaker. The script writes results to runs/human_speech; ../README.md reports ours.
set -euo pipefail
speech=$(realpath "$1") language=$2
cd "$(dirname "$0")/../.."

run=runs/human_speech/$language
export launch=${launch:-python} models="supervised control final oracle"
# To leave CTC's plateau of blanks, digits need small batches and many updates, sentences need batches of a minute.
case $language in
    en)
        export updates=3000 batch_seconds=5
        python recipes/prepare_data.py --list "$speech/en-fsdd/manifest.tsv" --output $run/data \
            --train-speakers george --dev-speakers nicolas --test-speakers theo
        ;;
    ml)
        export updates=2500 batch_seconds=30
        python recipes/prepare_data.py --list "$speech/ml-msc/manifest.tsv" --output $run/data \
            --train-speakers ml-06d32491 ml-e7cd28ef --dev-speakers ml-aa261f95 \
            --test-speakers ml-f9313295 ml-cacb162d ml-cfd183bc ml-c9f4f5b0 ml-3ae306d4 ml-59c18d16 ml-a54fce36 \
            ml-8268ccdb
        ;;
    *) echo "error: $language is neither en nor ml" >&2; exit 1 ;;
esac
recipes/proof.sh $run/data $run/proof "$language" "${@:3}"
