"""Uses a tokenizer on texts that provoke its patterns; run by `tokenizer_check` as a script.

    python tokenizer_trial.py TOKENIZER_JSON < a JSON list of its regular expressions

Exits with 0 where every text was tokenized. It may be killed by its own limits at any point.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

# Address space: of Python and the library, and what a vocabulary needs, which is measured at up to
# eight times the bytes of its file.
_MEMORY_BYTES = 512 * 1024**2
_MEMORY_PER_BYTE = 10
# Loading the largest published vocabulary takes 3 s.
_CPU_SECONDS = 6
# A word, a digit, white space, and letters and symbols outside ASCII.
_CHARACTERS = "aA0_ \n\té中\N{EGYPTIAN HIEROGLYPH A001}"
# More repetitions show what takes the square or cube of a text; few show what takes 2^n.
_LONG, _SHORT = 4_000, 40


def main() -> None:
    """Load the tokenizer and tokenize every text."""
    file, expressions = sys.argv[1], json.load(sys.stdin)
    with open(file, "rb") as handle:
        size = handle.seek(0, 2)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, _CPU_SECONDS)
    limit(resource.RLIMIT_AS, _MEMORY_BYTES + _MEMORY_PER_BYTE * size)

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in texts(expressions):
        tokenizer.encode(text)


def limit(kind: int, most: int) -> None:
    """Limit a resource of this process, unless a lower limit is set already."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):  # macOS has no limit on the address space
        resource.setrlimit(kind, (most, most))


def texts(expressions: list[str]) -> Iterator[str]:
    """Texts that expressions match almost, and every character."""
    literal = "".join(re.sub(r"\\.", "", each) for each in expressions)
    letters = "".join(dict.fromkeys(_CHARACTERS + "".join(re.findall(r"\w", literal))))[:24]
    words = list(dict.fromkeys(re.findall(r"\w{2,}", literal)))[:24]
    # Oniguruma does not start where a character that must follow is nowhere in the text.
    end = "!" + literal[:200]
    for unit in (*letters, *words):
        yield unit * _LONG + end
    for pair in product(letters, repeat=2):
        yield "".join(pair) * _SHORT + end
    for first in range(0, 0x110000, 256):
        yield "".join(chr(i) for i in range(first, first + 256) if not 0xD800 <= i < 0xE000)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # a panic of Rust is no Exception
        sys.stdout.write(str(error))
        sys.exit(1)
