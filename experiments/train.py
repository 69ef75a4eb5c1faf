"""Train, evaluate and export a static embedding: python experiments/train.py --help.

These are the steps of `sse train` (sse.training.run); copy the file to change one of them.
"""

import sys
from collections.abc import Sequence
from typing import Any

from sse.common.errors import one_line, script_imports
from sse.common.signals import stopped_with

with script_imports():  # these need the extra `train`
    from sse.training.options import check, parse
    from sse.training.processes import one_voice
    from sse.training.run import (
        build,
        evaluate,
        export_run,
        fit,
        open_folder,
        read_collections,
        read_data,
    )


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Train a model; returns what metrics.json holds."""
    # The command line, over --config or over the configuration of the run that --resume names.
    options = parse(args)
    check(options)  # refuses bad options before anything is read

    # torchrun or srun may have started several processes: join them, and agree on one folder.
    folder = open_folder(options)

    # What to evaluate on comes first: a typing error must not cost the training.
    collections = read_collections(options)

    # Files or hub sets -> checked pairs -> tokenizer -> token cache -> the plan of the batches.
    data = read_data(options, folder)

    # SSEModule (table, norm, loss, optimiser) and Lightning's trainer (logs, checkpoints).
    run = build(options, folder, collections, data)

    # trainer.fit, from the newest whole checkpoint on where the run is resumed.
    fit(run)
    if not run.first:
        return {}

    # A signal from here on says how to go on: the training itself is saved.
    with stopped_with(run.go_on):
        # nDCG@10 and others, at every Matryoshka dimension, beside BM25 and the untrained model.
        results = evaluate(run)
        # DIR/model, which sentence-transformers and sse.Encoder load, and DIR/metrics.json.
        return export_run(run, results)


if __name__ == "__main__":
    sys.exit(one_line(one_voice(main))())
