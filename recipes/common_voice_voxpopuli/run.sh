#!/usr/bin/env bash
# Runs the paper's whole recipe on Common Voice 6.1 (60 locales) and VoxPopuli (unlabelled, the 19 locales in both).
#
#     recipes/common_voice_voxpopuli/run.sh [--plan] [model=large] [start=scratch] [accelerate=multi_gpu] FOLDER
#
# FOLDER holds the corpora, downloaded and unpacked: cv-corpus-6.1-2020-12-11/{locale}/clips, and voxpopuli/ with
# raw_audios/ and annotations/unlabelled_v2.tsv.gz.
#
#     --plan               train nothing, but print hours, updates, disk space and GPU-hours of every stage, and what is
#                          missing; needs no FOLDER, but the utterance files, which the first step of a run writes
#     model=large|base     1,059 or 275 million parameters
#     start=scratch|supervised
#                          where the final model starts from; the paper reports both
#     accelerate=NAME      launch with NAME.yaml in recipes/accelerate, after you have edited it. On several
#                          machines run the commands below one by one, those with accelerate launch on each machine
#
# To continue an interrupted run, start it again: every step continues where it stopped, and complete steps are skipped.
# The settings are the YAML files beside this script, which show where each value comes from. The results are written to
# runs/common_voice_voxpopuli.
set -euo pipefail

plan=false model=large start=scratch accelerate=multi_gpu folder=
for argument; do
    case $argument in
        --help | -h) sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p;}' "$0"; exit ;;
        --plan) plan=true ;;
        model=large | model=base | start=scratch | start=supervised | accelerate=?*) declare "$argument" ;;
        -* | *=*) echo "error: $argument is not understood; there are --plan, model=large or base, start=scratch or" \
            "supervised, accelerate=NAME, and --help" >&2; exit 1 ;;
        *) folder=$(realpath "$argument") ;;
    esac
done
cd "$(dirname "$0")/../.."

run=runs/common_voice_voxpopuli
here=recipes/common_voice_voxpopuli
launch="accelerate launch --config_file recipes/accelerate/$accelerate.yaml"
languages="cs de el en es et fi fr hu it lt lv mt nl pl pt ro sl sv-SE" # in both corpora

# Settings of each stage: its file, and what overrides it
if [[ $start == supervised ]]; then from=$run/$model/supervised/model; else from=$model; fi
ending=$run/$model/$start # so that both final models can exist
supervised=($here/supervised.yaml output_dir=$run/$model/supervised model=$model)
language_finetune=($here/language_finetune.yaml "output_dir=$run/$model/language_finetune/{language}"
    model=$run/$model/supervised/model)
mixed=($here/mixed.yaml output_dir=$ending/mixed model=$from
    "train=[$run/data/train.parquet, $run/$model/labels/*/labels.parquet]")
final=($here/final.yaml output_dir=$ending/final model=$ending/mixed/model)

if [[ $plan == false && ! -e $run/data/tokens-all.lst ]]; then
    if [[ -z $folder ]]; then echo "error: name the folder of the corpora, see --help" >&2; exit 1; fi
    python recipes/prepare_data.py --common-voice "$folder/cv-corpus-6.1-2020-12-11" --voxpopuli "$folder/voxpopuli" \
        --output $run/data
    python recipes/build_tokenizer.py $run/data/train.parquet --output $run/data/tokens-all.lst
fi

# Find what is missing now, not after weeks of training.
python recipes/estimate.py --stage "${supervised[@]}" --stage "${language_finetune[@]}" --stage "${mixed[@]}" \
    --stage "${final[@]}" --labels $run/$model/labels --languages $languages --launch "$launch"
if [[ $plan == true ]]; then exit; fi

$launch recipes/train.py "${supervised[@]}"
python recipes/language_finetune.py "${language_finetune[@]}" --labels $run/$model/labels --languages $languages \
    --launch "$launch"
$launch recipes/train.py "${mixed[@]}"
$launch recipes/train.py "${final[@]}"

for stage in supervised $start/mixed $start/final; do
    $launch recipes/evaluate_model.py --model $run/$model/$stage/model --data $run/data/test.parquet \
        --output $run/$model/$stage.json
done
python recipes/compare.py supervised=$run/$model/supervised.json mixed=$run/$model/$start/mixed.json \
    final=$run/$model/$start/final.json --languages $languages
python recipes/report.py $run/$model/supervised $run/$model/$start/mixed $run/$model/$start/final \
    --results $run/$model/supervised.json $run/$model/$start/mixed.json $run/$model/$start/final.json \
    --output $run/$model/$start/report.html
