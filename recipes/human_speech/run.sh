#!/usr/bin/env bash
# The demo's stages on speech of people: Malayalam sentences (Malayalam Speech Corpus) and English digits (Free Spoken
# Digit Dataset), few labelled speakers, the others unlabelled, and test speakers whom no stage hears. About half an
# hour on two quiet CPU cores; what is complete is skipped.
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

# Many more and smaller updates than the demo's: with sentences of people, CTC takes thousands of updates to say more
# than blanks, however much speech each of them has.
labelled="train=[$run/ml/train.parquet, $run/en/train.parquet]"
dev="dev=[$run/ml/dev.parquet, $run/en/dev.parquet]"
train() { # SETTINGS NAME UPDATES OVERRIDE ...
    $launch recipes/train.py "recipes/demo/$1.yaml" output_dir="$run/$2" max_updates="$3" max_batch_seconds=8 \
        eval_every=1000 save_every=500 "$dev" "${@:4}"
}
train supervised supervised 6000 tokens=$run/tokens-all.lst spec_augment.start_update=4000 "$labelled"
$launch recipes/pseudo_label.py --model $run/supervised/model --output $run/labels --num-workers 0 \
    --data $run/ml/unlabelled.parquet $run/en/unlabelled.parquet
train mixed mixed 2000 model=$run/supervised/model "${labelled/]/, $run/labels/labels.parquet]}"
train final final 1500 model=$run/mixed/model "$labelled"
train final control 3500 model=$run/supervised/model "$labelled"

score() { # NAME OPTION ...: a table of all stages
    for stage in supervised control mixed final; do
        python recipes/evaluate.py --model $run/$stage/model --data $run/ml/test.parquet $run/en/test.parquet \
            --output "$run/$stage-$1.json" "${@:2}" > /dev/null
    done
    echo "== test speakers, $1 sentences"
    python recipes/compare.py supervised="$run/supervised-$1.json" control="$run/control-$1.json" \
        mixed="$run/mixed-$1.json" final="$run/final-$1.json"
}
score all
score unseen --languages ml --unseen-in $run/ml/train.parquet
