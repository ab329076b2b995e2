"""How large the files of a checkpoint may be: far beyond any published encoder, far below what
would exhaust a machine. Whatever is larger is refused before anything of that size is made.
"""

from __future__ import annotations

# config.json with the names of 100,000 classes has 5 MB, a safetensors header of 10,000 tensors 1.
MAX_JSON_BYTES = 16 * 1024**2
# Vocabularies: XLM-V's tokenizer.json, with 901,629 pieces the largest of an encoder, has 62 MB.
MAX_VOCABULARY_BYTES = 64 * 1024**2
# Python needs up to 25 times the bytes of JSON for its values: `{"a":0},` is a dictionary of 232
# bytes. Estimated for XLM-V: 0.27 GB.
MAX_JSON_MEMORY = 384 * 1024**2
# config.json nests 4 levels, tokenizer.json 7.
MAX_JSON_DEPTH = 32

# Published embedders have 2 to 6 modules; the largest checkpoints in safetensors 200 shards.
MAX_MODULES = 64
MAX_SHARDS = 1_000
# Of all shards together. A layer has about 16 tensors; experts, which no encoder has, thousands.
MAX_TENSORS = 100_000
# A name in modules.json, an index or a header; file systems allow 255 bytes.
MAX_NAME_CHARACTERS = 255

# Characters of a prompt, which is put before every text.
MAX_PROMPT_CHARACTERS = 100_000
# A chat template; the longest published, with tools and reasoning, have 30 KB.
MAX_TEMPLATE_BYTES = 1024**2

# Numbers of layers, heads or classes that are harmless whatever the tensors are. ALBERT uses one
# layer's tensors many times, and a model without a classifier may keep any num_labels.
HARMLESS_COUNT = 1_000
# The longest published context is 10 million tokens, and nothing is made of that size. Only
# transformers computes position tables that the file lacks: 500 bytes and 20 µs for each position.
MAX_POSITIONS = 16 * 1024**2
MAX_COMPUTED_POSITIONS = 1024**2
# No float and no index of a tensor goes beyond.
MAX_SIZE = 2**40

# tokenizer.json: multilingual decoders have up to 7,000 added tokens.
MAX_ADDED_TOKENS = 100_000
# Steps of one stage; ALBERT's normalizer, the longest published, has 7.
MAX_STEPS = 32
# Bytes that the steps may make of one byte, at worst. Published tokenizers stay below 270 by the
# count of tokenizer_steps.py: 33 by a character map, times 2 for ▁ in the place of two spaces,
# times 4 by Metaspace.
MAX_GROWTH = 512
# Characters that steps may add to every text or word.
MAX_ADDED_TEXT = 1_000
# Characters of a word that WordPiece looks up piece by piece, in quadratic time; published: 100.
MAX_WORD_CHARACTERS = 10_000
