"""Pairs of rerankers that are published as language models, as their authors' own code builds them.

Qwen3-Reranker: the code of its model card. mxbai-rerank-v2: the package mxbai-rerank. Both put
fixed tokens around what they truncate, so no limit cuts the end, which the score is read after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UsageError
from pipeline.packing import Int32Array
from pipeline.spec import Truncate
from pipeline.tokenize.encodings import lost_tokens
from pipeline.tokenize.whole_pairs import PairTokens, WholePairs, ids_of, is_cut

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3_START = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_QWEN3_END = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

_MXBAI_START = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n"
)
_MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For "
    "each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
_MXBAI_END = "<|im_end|>\n<|im_start|>assistant\n"


class PublishedPairs(WholePairs):
    """What the two families share: fixed tokens at both ends.

    Args:
        tokenizer: owned by this class from here on.
        instruction: the text that says what makes a document relevant.
        max_length: the limit of the authors' code.
        truncate: `right`, or `error` to refuse the row.

    Raises:
        UsageError: the limit leaves no room for text, or the start would be cut.
    """

    start: str
    end: str

    def __init__(
        self, tokenizer: Tokenizer, instruction: str, max_length: int, truncate: Truncate
    ) -> None:
        if truncate == "left":
            raise UsageError(
                "--truncate left would cut off the query: the code of this reranker cuts the end",
                hint="use --truncate right or error (--long-texts cut-end or error)",
            )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._instruction = instruction
        self._start = self._ids([self.start])[0]
        self._end = self._ids([self.end])[0]
        super().__init__(max_length, truncate)

    def _ids(self, texts: list[str]) -> list[Int32Array]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [ids_of(encoding) for encoding in encodings]

    def _around(self, *parts: Int32Array) -> Int32Array:
        return np.concatenate([self._start, *parts, self._end])


class Qwen3Pairs(PublishedPairs):
    """One text of instruction, query and document; the limit counts the fixed tokens too."""

    start, end = _QWEN3_START, _QWEN3_END

    def __init__(
        self, tokenizer: Tokenizer, instruction: str, max_length: int, truncate: Truncate
    ) -> None:
        super().__init__(tokenizer, instruction, max_length, truncate)
        fixed = len(self._start) + len(self._end)
        self._room = max_length - fixed
        if self._room < 1:
            raise UsageError(
                f"--max-length {max_length} leaves no room for text besides the {fixed} tokens "
                "around it",
                hint=f"give {fixed + 1} or more",
            )
        if truncate != "error":
            tokenizer.enable_truncation(self._room)

    def _tokenize(self, pairs: list[tuple[str, str]]) -> list[PairTokens]:
        texts = [
            f"<Instruct>: {self._instruction}\n<Query>: {query}\n<Document>: {document}"
            for query, document in pairs
        ]
        found = []
        for encoding in self._tokenizer.encode_batch_fast(texts):
            ids = self._around(ids_of(encoding))
            cut = is_cut(encoding, self._room)
            found.append(PairTokens(ids, len(ids), cut, lost=lost_tokens(encoding)))
        return found


class MxbaiPairs(PublishedPairs):
    """Query and document are truncated apart; the limit does not count the fixed tokens.

    Three quarters of the limit are the most that a query gets.

    Args:
        tokenizer, instruction, max_length, truncate: as above.
        positions: of the model, which the limit and the fixed tokens share.
    """

    start, end = _MXBAI_START, _MXBAI_END

    def __init__(
        self,
        tokenizer: Tokenizer,
        instruction: str,
        max_length: int,
        truncate: Truncate,
        *,
        positions: int,
    ) -> None:
        super().__init__(tokenizer, instruction, max_length, truncate)
        self._separator, task = self._ids(["\n", _MXBAI_TASK])
        self._end = np.concatenate([self._separator, task, self._end])
        self._max_length = min(max_length, positions - len(self._start) - len(self._end))
        if self._max_length < 1:
            raise UsageError(
                f"the model has {positions} positions, which leaves no room for text besides the "
                "tokens around it"
            )

    def _tokenize(self, pairs: list[tuple[str, str]]) -> list[PairTokens]:
        instruction = f"instruction: {self._instruction}\n" if self._instruction else ""
        queries = self._ids([f"{instruction}query: {query}" for query, _ in pairs])
        documents = self._ids([f"document: {document}" for _, document in pairs])
        return [self._pair(*pair) for pair in zip(queries, documents, strict=True)]

    def _pair(self, query: Int32Array, document: Int32Array) -> PairTokens:
        document = np.concatenate([self._separator, document])
        size = len(query) + len(document)
        query = query[: self._max_length * 3 // 4]
        document = document[: self._max_length - len(query)]
        lost = size - len(query) - len(document)
        return PairTokens(self._around(query, document), size, cut=lost > 0, lost=lost)
