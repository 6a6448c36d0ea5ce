#!/bin/sh
# Stands for R, Julia and all that is no Python: an algorithm of its own, in a language that the checker does not know.
epochs=$(sed -n 's/.*"epochs": *"\([0-9]*\)".*/\1/p' /opt/ml/input/config/hyperparameters.json)
saved=/opt/ml/checkpoints/step
if [ -z "$epochs" ]; then
  echo "epochs is no number" | tee /opt/ml/output/failure >&2
  exit 1
fi
step=0
[ ! -f $saved ] || step=$(cat $saved)
trap 'mkdir -p /opt/ml/checkpoints; echo $step > $saved; exit 0' TERM
while [ "$step" -lt "$epochs" ]; do
  step=$((step + 1))
  echo "epoch $step"
  sleep 1 &
  wait $!
done
cat /opt/ml/input/data/*/* 2> /opt/ml/output/data/skipped | wc -c > /opt/ml/model/model.txt
