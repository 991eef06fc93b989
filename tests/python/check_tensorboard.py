"""Reads event files as TensorBoard does: `python check_tensorboard.py FOLDER` prints what is in it as JSON.

`scalars` has a list of [step, value, wall time] for each tag, `texts` a list of [step, text]; what a restart has
orphaned is not among them.
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

# 0: keep all.
accumulator = EventAccumulator(sys.argv[1], size_guidance={"tensors": 0, "scalars": 0})
accumulator.Reload()

scalars, texts = {}, {}
for tag in accumulator.Tags()["scalars"]:
    scalars[tag] = [[e.step, e.value, e.wall_time] for e in accumulator.Scalars(tag)]
for tag in accumulator.Tags()["tensors"]:
    metadata = accumulator.SummaryMetadata(tag)
    assert metadata.plugin_data.plugin_name == "text", metadata
    for event in accumulator.Tensors(tag):
        text = tensor_util.make_ndarray(event.tensor_proto).item().decode()
        texts.setdefault(tag, []).append([event.step, text])
json.dump({"file_version": accumulator.file_version, "scalars": scalars, "texts": texts}, sys.stdout)
