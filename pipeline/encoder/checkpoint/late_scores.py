"""How a model whose tokens have vectors scores a query and a document, by its files."""

from __future__ import annotations

from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.modules import SentenceModules
from pipeline.encoder.checkpoint.multi_modules import METADATA
from pipeline.encoder.checkpoint.sentence_modules import GENERAL
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError

_MEAN = "meanmaxsim"
# What ColBERT's own code does by default: other settings of it have been there for experiments.
_COMPUTED = {"similarity": "cosine", "interaction": "colbert"}


def scores_by_mean(files: CheckpointFiles, modules: SentenceModules) -> bool:
    """Whether MaxSim is the mean over the query's tokens, in place of their sum.

    Raises:
        CheckpointError: its files ask for another score.
    """
    if modules.multi is None:  # bge-m3, by FlagEmbedding
        return True
    if files.modules:
        return files.json(files.path / GENERAL).get("similarity_fn_name") == _MEAN
    file = files.folder / METADATA
    settings = files.json(file)
    for key, computed in _COMPUTED.items():
        if (value := settings.get(key) or computed) != computed:
            raise CheckpointError(
                f"{file} sets {key} = {shown(value)}; bei-jobs scores a document by the largest "
                "inner product of each token of the query (MaxSim) alone",
                hint="write the vectors with --task embed, and score them with your own code",
            )
    return False
