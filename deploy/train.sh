#!/usr/bin/env bash
# Train the built-in family on a machine that has torch and transformers but neither this project nor a network.
# `make train-wheels` collects what such a machine may lack in .whl; carry that folder along.
#
#   MINUTES=8.5 OUT=/results deploy/train.sh               # packed averages in OUT, every minute
#   MINUTES=14 START=/results OUT=/more deploy/train.sh    # MINUTES is the total over all runs
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
wheels=${WHEELS:-.whl}
: "${OUT:?name the folder for the results with OUT=}" "${MINUTES:?say how long with MINUTES=}"

if [ -d "$wheels" ]; then # what is there already is left alone
  "$python" -m pip install --quiet --no-index --no-deps --find-links "$wheels" \
    $(sed -n 's/^TRAIN_WHEELS := //p' Makefile)
fi
tree=$(mktemp -d) # the one package, which nothing installs here
mkdir "$tree/baton"
ln -s "$PWD"/proto/gen/baton/* "$PWD"/{common,coordinator,device_client,edge_server} "$tree/baton"
export PYTHONPATH="$tree${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m baton.common.families.scenes.training train --run-dir "${RUN_DIR:-runs/scenes}" \
  --device "${DEVICE:-auto}" --minutes "$MINUTES" --pack "$OUT" ${START:+--start "$START"} "$@"
