#!/bin/sh
# What the methods of `awq quantize` keep of a model: tables of perplexity and KL divergence from the original for bits and
# group sizes, a table for a text, and the geometric mean of KL(best) / KL(autoawq).  docs/accuracy.md has some.
#
#   examples/accuracy.sh MODEL CALIBRATION-TEXT EVALUATION-TEXT..
#
# BITS, GROUP_SIZES and METHODS choose what is measured; SAMPLES and LENGTH, how many windows of how many tokens to calibrate
# with; WINDOWS, how many of each text to evaluate.  With RESULTS=FILE measurements are kept, and not repeated by the next run.
set -eu
export LC_ALL=C

if [ $# -lt 3 ]; then
    sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p; }' "$0" >&2
    exit 2
fi
awq=${BUILD:-build}/awq
model=$1 calib=$2
shift 2
methods=${METHODS:-rtn gptq paper autoawq best}
samples=${SAMPLES:-32} length=${LENGTH:-256} windows=${WINDOWS:-16}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
results=${RESULTS:-$scratch/results}
touch "$results"

# The value of key $1 in $scratch/json.
value() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "$scratch/json" | head -n 1; }

# Append "MODEL TEXT bits group method perplexity KL" for each text, unless that is there.
measure() {
    name=$(basename "$model") missing=
    for text; do
        grep -q "^$name $(basename "$text") $bits $group $method " "$results" || missing=1
    done
    [ "$missing" ] || return 0
    case $method in
    rtn | gptq | awq) how=--method ;;
    *) how=--preset ;;
    esac
    rm -rf "$scratch/model"
    "$awq" quantize "$model" -o "$scratch/model" --quiet --calib "$calib" --samples "$samples" --seq-length "$length" \
        --bits "$bits" --group-size "$group" $how "$method"
    for text; do
        "$awq" evaluate "$scratch/model" --against "$model" --text "$text" --context "$length" --limit "$windows" --json \
            >"$scratch/json"
        echo "$name $(basename "$text") $bits $group $method $(value perplexity) $(value kl_divergence)" >>"$results"
    done
}

for bits in ${BITS:-4 3 2}; do
    for group in ${GROUP_SIZES:-128 64 32}; do
        for method in $methods; do measure "$@"; done
    done
done

for text; do
    "$awq" evaluate "$model" --text "$text" --context "$length" --limit "$windows" --json >"$scratch/json"
    printf '\n%s on %s, %s tokens, perplexity %.3f:\n\n' "$(basename "$model")" "$(basename "$text")" "$(value tokens)" \
        "$(value perplexity)"
    awk -v model="$(basename "$model")" -v text="$(basename "$text")" -v methods="$methods" '
        $1 == model && $2 == text {
            setting = $3 ", " $4
            if (!((setting, "") in seen)) order[++settings] = setting
            seen[setting, ""] = 1
            shown[setting, $5] = sprintf("%.3f, KL %.5f", $6, $7)
            divergence[setting, $5] = $7
        }
        END {
            count = split(methods, columns, " ")
            printf "| bits, group |"
            for (i = 1; i <= count; i++) printf " %s |", columns[i]
            printf "\n|---|"
            for (i = 1; i <= count; i++) printf "---|"
            for (j = 1; j <= settings; j++) {
                printf "\n| %s |", order[j]
                for (i = 1; i <= count; i++) printf " %s |", shown[order[j], columns[i]]
                best = divergence[order[j], "best"]; peer = divergence[order[j], "autoawq"]
                if (best > 0 && peer > 0 && order[j] !~ /^2,/) { sum += log(best / peer); ratios++ }
            }
            if (ratios) printf "\n\nGeometric mean of KL(best) / KL(autoawq), %d settings above 2 bits: %.3f\n", ratios, exp(sum / ratios)
            else print ""
        }' "$results"
done
