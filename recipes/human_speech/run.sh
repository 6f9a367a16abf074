#!/usr/bin/env bash
# The demo's stages on speech of people: Malayalam sentences (Malayalam Speech Corpus) and English digits (Free Spoken
# Digit Dataset), few labelled speakers, the others unlabelled, and test speakers whom no stage hears.
#
#     recipes/human_speech/run.sh FOLDER
#
# FOLDER holds ml-msc/manifest.tsv and en-fsdd/manifest.tsv: tab-separated tables with the columns path, sentence,
# language and speaker. Results land in runs/human_speech; README.md beside this folder says what came out.
set -euo pipefail
speech=$(realpath "$1")
cd "$(dirname "$0")/../.."

run=runs/human_speech
launch="accelerate launch --config_file recipes/accelerate/multi_cpu.yaml --num_cpu_threads_per_process 1"

python recipes/prepare_data.py --list "$speech/ml-msc/manifest.tsv" --output $run/ml \
    --train-speakers ml-06d32491 ml-e7cd28ef \
    --dev-speakers ml-aa261f95 \
    --test-speakers ml-f9313295 ml-cacb162d ml-cfd183bc ml-c9f4f5b0 ml-3ae306d4 ml-59c18d16 ml-a54fce36 ml-8268ccdb
python recipes/prepare_data.py --list "$speech/en-fsdd/manifest.tsv" --output $run/en \
    --train-speakers george --dev-speakers nicolas --test-speakers theo
python recipes/build_tokenizer.py $run/ml/train.parquet $run/en/train.parquet --output $run/tokens-all.lst

labelled="train=[$run/ml/train.parquet, $run/en/train.parquet]"
dev="dev=[$run/ml/dev.parquet, $run/en/dev.parquet]"
$launch recipes/train.py recipes/demo/supervised.yaml output_dir=$run/supervised tokens=$run/tokens-all.lst \
    "$labelled" "$dev"
$launch recipes/pseudo_label.py --model $run/supervised/model --output $run/labels --num-workers 0 \
    --data $run/ml/unlabelled.parquet $run/en/unlabelled.parquet
$launch recipes/train.py recipes/demo/mixed.yaml output_dir=$run/mixed model=$run/supervised/model \
    "${labelled/]/, $run/labels/labels.parquet]}" "$dev"
$launch recipes/train.py recipes/demo/final.yaml output_dir=$run/final model=$run/mixed/model "$labelled" "$dev"
$launch recipes/train.py recipes/demo/final.yaml output_dir=$run/control model=$run/supervised/model max_updates=800 \
    "$labelled" "$dev"

for stage in supervised control final; do
    python recipes/evaluate.py --model $run/$stage/model --data $run/ml/test.parquet $run/en/test.parquet \
        --output $run/$stage.json
done
python recipes/compare.py supervised=$run/supervised.json control=$run/control.json final=$run/final.json
