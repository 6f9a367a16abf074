#!/usr/bin/env bash
# Measures what each part of the recipe is worth: trains the paper's models, a control and an oracle, once per seed.
#
#     recipes/proof.sh DATA OUTPUT LANGUAGES SEED ...
#     make demo && recipes/proof.sh runs/demo/data runs/proof "nl pt ro sv-SE" 0 1 2
#
# DATA is a folder (or a quoted pattern of folders) with train.parquet, test.parquet and unlabelled.parquet. The texts
# of the unlabelled speech must be known, because the oracle trains on them. LANGUAGES are those with unlabelled speech.
# The script skips what is complete. With the demo's data, two seeds at the same time took an hour on two CPU cores that
# other jobs also used. Environment variables: `launch=python` trains in one process, so that several seeds can run at
# the same time; `models` lists the columns, and may leave out at_once, scratch and oracle; `updates` (of stage 1),
# `later_updates` (of stage 4 and the control; slimIPL has 3 for 5 of these) and `batch_seconds` adapt the training to the
# data; `start` is the model of stage 1, and `settings` are added to those of all stages, as any_model/demo.sh does it.
set -euo pipefail
cd "$(dirname "$0")/.."

data=$1 output=$2 languages=$3
seeds=("${@:4}")
launch=${launch:-accelerate launch --config_file recipes/accelerate/multi_cpu.yaml --num_cpu_threads_per_process 1}
models=${models:-supervised control at_once scratch final oracle}
later=${later_updates:-1000}

train() { # NAME SETTINGS UPDATES [name=value ...]: trains the model OUTPUT/SEED/NAME
    $launch recipes/train.py "recipes/demo/$2.yaml" output_dir="$run/$1" seed="$seed" max_updates="$3" "dev=[]" \
        tokens="$output/tokens-all.lst" max_batch_seconds="${batch_seconds:-15}" save_every=500 ${settings:-} "${@:4}"
}
stage_4() { # NAME MODEL UPDATES UTTERANCES: trains MODEL further on labels and other texts, then on labels alone
    train "$1_mixed" mixed "$3" model="$2" "train=[$data/train.parquet, $4]"
    train "$1" final $((later * 2 / 5)) model="$run/$1_mixed/model" "$labelled"
}

labelled="train=[$data/train.parquet]" unlabelled="unlabelled=[$data/unlabelled.parquet]"
python recipes/build_tokenizer.py $data/train.parquet --output "$output/tokens-all.lst"
for seed in "${seeds[@]}"; do
    run=$output/$seed
    train supervised supervised "${updates:-2000}" model="${start:-tiny}" "$labelled"
    train control final "$later" model="$run/supervised/model" "$labelled" # as many updates as stage 4

    # The paper's negative result: slimIPL on all languages at once; its pseudo-labels are made for comparison
    if [[ $models == *at_once* ]]; then
        train at_once language_finetune "$later" language=null language_alpha=0.3 model="$run/supervised/model" \
            slimipl.cache_size=32 "$labelled" "$unlabelled"
        $launch recipes/pseudo_label.py --model "$run/at_once/model" --data $data/unlabelled.parquet \
            --output "$run/labels_at_once" --num-workers 0
    fi

    # Stages 2, 3 and 4: the final model from stage 1 and from scratch, and the oracle with the true texts
    python recipes/language_finetune.py recipes/demo/language_finetune.yaml --labels "$run/labels" --launch "$launch" \
        output_dir="$run/{language}" seed="$seed" model="$run/supervised/model" max_updates=$((later * 3 / 5)) "dev=[]" \
        max_batch_seconds="${batch_seconds:-15}" slimipl.start_update=$((later / 5)) ${settings:-} "$labelled" "$unlabelled" \
        --languages $languages
    stage_4 final "$run/supervised/model" $((later * 3 / 5)) "$run/labels/*/labels.parquet"
    if [[ $models == *oracle* ]]; then
        stage_4 oracle "$run/supervised/model" $((later * 3 / 5)) "$data/unlabelled.parquet"
    fi
    if [[ $models == *scratch* ]]; then
        train scratch_mixed supervised 2000 "train=[$data/train.parquet, $run/labels/*/labels.parquet]"
        train scratch final $((later * 2 / 5)) model="$run/scratch_mixed/model" "$labelled"
    fi

    python recipes/evaluate_model.py --model "$run/supervised/model" --data $data/unlabelled.parquet --languages $languages \
        --output "$run/labels_supervised.json"
    for model in $models; do
        python recipes/evaluate_model.py --model "$run/$model/model" --data $data/test.parquet --output "$run/$model.json"
    done
done

columns=() labels=(supervised="$output/[0-9]*/labels_supervised.json")
for model in $models; do
    columns+=("$model=$output/[0-9]*/$model.json")
done
if [[ $models == *at_once* ]]; then labels+=(at_once="$output/[0-9]*/labels_at_once/complete.json"); fi
echo "== test speakers"
if [[ $models == *oracle* ]]; then gap="--oracle oracle --control control"; else gap=""; fi
python recipes/compare.py "${columns[@]}" --languages $languages $gap
echo "== errors of pseudo-labels: by the supervised model, by slimIPL on all languages at once, and on each alone"
python recipes/compare.py "${labels[@]}" per_language="$output/[0-9]*/labels/complete.json"
