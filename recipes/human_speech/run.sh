#!/usr/bin/env bash
# The whole recipe on speech of people: Malayalam sentences (Malayalam Speech Corpus) and English digits (Free Spoken
# Digit Dataset), few labelled speakers, the others unlabelled, and test speakers whom no stage hears. Stage 1 learns
# the demo's four synthetic high-resource languages beside them: from half an hour of speech alone, CTC hardly gets
# beyond blanks. About half an hour per seed on two quiet CPU cores; what is complete is skipped.
#
#     make demo && recipes/human_speech/run.sh FOLDER SEED ...
#
# FOLDER holds ml-msc/manifest.tsv and en-fsdd/manifest.tsv: tab-separated tables with the columns path, sentence,
# language and speaker. Results land in runs/human_speech; README.md beside this folder says what came out.
set -euo pipefail
speech=$(realpath "$1")
cd "$(dirname "$0")/../.."

run=runs/human_speech
python recipes/prepare_data.py --list "$speech/ml-msc/manifest.tsv" --output $run/data/ml \
    --train-speakers ml-06d32491 ml-e7cd28ef \
    --dev-speakers ml-aa261f95 \
    --test-speakers ml-f9313295 ml-cacb162d ml-cfd183bc ml-c9f4f5b0 ml-3ae306d4 ml-59c18d16 ml-a54fce36 ml-8268ccdb
python recipes/prepare_data.py --list "$speech/en-fsdd/manifest.tsv" --output $run/data/en \
    --train-speakers george --dev-speakers nicolas --test-speakers theo
python recipes/prepare_data.py --common-voice runs/demo/corpora/cv-corpus-demo --languages de es it pl \
    --output $run/data/synthetic

export models="supervised control at_once final oracle"
recipes/proof.sh "$run/data/*" $run/proof "en ml" "${@:2}"

echo "== Malayalam sentences that training has not seen"
columns=()
for model in $models; do
    for seed in "${@:2}"; do
        python recipes/evaluate.py --model "$run/proof/$seed/$model/model" --data $run/data/ml/test.parquet \
            --unseen-in $run/data/ml/train.parquet --output "$run/unseen/$seed/$model.json" > /dev/null
    done
    columns+=("$model=$run/unseen/*/$model.json")
done
python recipes/compare.py "${columns[@]}"
