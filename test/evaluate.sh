#!/bin/sh
# awq evaluate: several lengths in one run, agreement with a reference, thresholds, tasks, and what is wrong with them.
set -eu
cd "$(dirname "$0")/.."
. test/common

prose=examples/models/prose.txt
tasks=$scratch/tasks.tsv
"$awq" quantize $model --out "$scratch/coarse" --method rtn --bits 2 --quiet

# ---- against itself nothing differs, and every threshold holds

run evaluate $model --against $model --text $prose --limit 1 --max-kl 1e-9 --max-perplexity-ratio 1 --min-top1 1 --json
cp "$scratch/out" "$scratch/same"
for pair in "kl_divergence 0" "kl_divergence_p99 0" "top1_agreement 1" "top5_agreement 1" "perplexity_ratio 1"; do
    holds "$(number "${pair% *}" <"$scratch/same") == ${pair#* }" "${pair% *} of a model against itself"
done
grep -q '"passed": true' "$scratch/same" || fail "not passed"

# ---- against a coarse copy

evaluate="evaluate $scratch/coarse --against $model --text $prose"
# shellcheck disable=SC2086
{
    run $evaluate --limit 2 --context 100 --json
    cp "$scratch/out" "$scratch/one"
    kl=$(number kl_divergence <"$scratch/one") top1=$(number top1_agreement <"$scratch/one")
    holds "0 < $kl && $kl < $(number kl_divergence_p99 <"$scratch/one")" "mean and 99th percentile"
    holds "$top1 < $(number top5_agreement <"$scratch/one")" "top-1 and top-5"
    ratio="$(number perplexity <"$scratch/one") / $(number reference_perplexity <"$scratch/one")"
    holds "($ratio - $(number perplexity_ratio <"$scratch/one")) ^ 2 < 1e-12" "the ratio of perplexities"

    # Each of several lengths gives what it gives alone.
    run $evaluate --limit 2 --context 50,100 --json
    grep -q '"contexts": \[' "$scratch/out" || fail "no list"
    [ "$(grep -c '"kl_divergence": ' "$scratch/out")" = 2 ] || fail "not two lengths"
    [ "$(grep '"kl_divergence": ' "$scratch/out" | tail -n 1 | tr -d ' ,')" = "\"kl_divergence\":$kl" ] ||
        fail "not the same"
    expect 0 "KL p99" $evaluate --limit 1 --context 50,100
    [ "$(grep -c '^ *\(50\|100\) ' "$scratch/out")" = 2 ] || fail "not a row for each length"

    # A threshold that is missed at one length is missed; the results are there all the same.
    expect 0 "verdict        passed" $evaluate --limit 1 --max-kl 100 --max-perplexity-ratio 1e9 --min-top1 1e-9
    expect 1 "is above --max-kl 1e-06" $evaluate --limit 1 --context 50 --max-kl 1e-6
    grep -q '^perplexity' "$scratch/out" || fail "no results"
    expect 1 "is above --max-perplexity-ratio 1.0001" $evaluate --limit 1 --context 50,100 --max-perplexity-ratio 1.0001
    expect 1 "is below --min-top1 1" $evaluate --limit 1 --context 50 --min-top1 1 --json
    grep -q '"passed": false' "$scratch/out" && grep -q 'windows of 50 tokens is below --min-top1 1"' "$scratch/out" ||
        fail "no verdict in JSON"
}

# ---- tasks that the model itself wrote, and one that nobody solves

for prompt in "This function returns" "The header is" "To install the program," "A thread may"; do
    written=$("$awq" generate $model --prompt "$prompt" --tokens 12 | head -n 1)
    printf '%s\t%s\n' "$prompt" "${written#"$prompt"}"
done >"$tasks"
printf 'This function returns\tzebra zebra\r\n' >>"$tasks"
run evaluate $model --tasks "$tasks" --json
cp "$scratch/out" "$scratch/own"
holds "$(number solved <"$scratch/own") == 4 && $(number tasks <"$scratch/own") == 5" "what the model wrote"
run evaluate "$scratch/coarse" --against $model --tasks "$tasks" --json
cp "$scratch/out" "$scratch/both"
solved=$(number solved <"$scratch/both")
holds "$(number reference_solved <"$scratch/both") == 4 && $solved < 4" "the reference's tasks"
holds "$(number retention <"$scratch/both") == $solved / 4" "retention"
expect 0 "a retention of 1.0000" evaluate $model --against $model --tasks "$tasks" --text $prose --limit 1
grep -q '^perplexity' "$scratch/out" || fail "no perplexity beside tasks"
printf 'This function returns\tzebra zebra' >"$tasks"
expect 0 '"retention": null' evaluate $model --against $model --tasks "$tasks" --json

# ---- what is wrong

# refuse TEXT: what is said of a file of tasks on stdin.
refuse() {
    cat >"$tasks"
    expect 1 "$tasks: $1" evaluate $model --tasks "$tasks"
}

printf '' | refuse "has no tasks"
printf 'a prompt\tright\nno tab\n' | refuse "line 2: has no tab"
printf '\n' | refuse "line 1: has no tab"
printf '\tanswer\n' | refuse "line 1: has no prompt"
printf 'a\tb\nprompt\t\n' | refuse "line 2: has nothing after the tab"
printf 'prompt\t  \r\n' | refuse "line 1: has only blanks after the tab"
printf 'a\tb\tc\n' | refuse "line 1: has two tabs"
printf 'a\tb\na\t\377\n' | refuse "line 2: is not UTF-8 text"
printf 'a\tb\0c\n' | refuse "line 1: is not UTF-8 text"
awk 'BEGIN { for (i = 0; i < 3000; i++) printf "word "; print "\tend" }' | refuse "line 1: the prompt has"
expect 1 "$scratch/none: No such file" evaluate $model --tasks "$scratch/none"
expect 1 "is a directory" evaluate $model --tasks "$scratch"

for lengths in "" 0 -1 1, ,1 1,,2 128x 99999999999999999999 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17; do
    expect 2 "--context '$lengths' is not a list" evaluate $model --text $prose --context "$lengths"
done
expect 1 "windows of 99999 tokens do not fit" evaluate $model --text $prose --limit 1 --context 50,99999
expect 2 "give it as --against" evaluate $model --text $prose --max-kl 1
expect 2 "give either --text or --tokens" evaluate $model --against $model --tasks "$tasks" --max-kl 1
expect 2 "not both" evaluate $model --text $prose --tokens ids.npy
expect 2 "--logits takes those of one --context" evaluate $model --text $prose --context 50,100 --logits x.npy
expect 2 "--min-top1" evaluate $model --against $model --text $prose --min-top1 1.5
expect 2 "--max-kl" evaluate $model --against $model --text $prose --max-kl nan
