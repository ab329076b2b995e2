"""Chat templates are strangers' programs: they are bounded, and only frames of two texts pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_rerankers import CHAT_TEMPLATE, QWEN3_TEMPLATE, ZERANK_TEMPLATE

from pipeline.encoder.checkpoint import chat_template, render_template
from pipeline.encoder.checkpoint.chat_template import ChatTemplate, pair_template
from pipeline.errors import CheckpointError

ROLES = "{{ messages[0].content }}{{ messages[1].content }}"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, structured=False, variables=(), restores_end=True, model="a model")


def test_the_words_around_two_texts_are_found() -> None:
    pair = pair_template(template(QWEN3_TEMPLATE), "Find {{ code }}")
    assert pair.before.endswith("<Instruct>: Find {{ code }}\n<Query>: ")
    assert pair.text(" q\n", "d ").endswith(
        "<Query>:  q\n\n<Document>: d <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_a_template_may_strip_its_texts_and_put_the_document_first() -> None:
    source = "D {{ messages[1].content.strip() }} Q {{ messages[0].content | trim }}\n\n"
    pair = pair_template(template(source), "")
    assert pair.text(" q\n", "\u3000d ") == "D d Q q\n"
    trimmed = pair_template(template(ZERANK_TEMPLATE), "")
    assert trimmed.text(" q\n", "") == (
        "<|im_start|>system\nq<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (CHAT_TEMPLATE, "is not one for pairs: the query does not reach the text"),
        (f"{{{{ strftime_now('%d') }}}}{ROLES}", "puts today's date into the text"),
        ("{{ messages[0].content | e }}{{ messages[1].content }}", "changes some texts"),
        ("{{ messages[0].content[:900] }}{{ messages[1].content }}", "changes some texts"),
        (f"{{% if messages[0].content %}}{ROLES}{{% endif %}}", "changes some texts"),
        ("{{ raise_exception('Only user roles') }}", "cannot be rendered: Only user roles"),
        ("{{ messages", "cannot be rendered"),
        ("{{ messages.__class__.__base__.__subclasses__() }}" + ROLES, "is unsafe"),
        ("{{ 'a' * 10**11 }}" + ROLES, "cannot be rendered"),
        ("{{ 'a' * 2 * 10**6 }}" + ROLES, "makes more than"),
    ],
)
def test_a_template_that_is_no_frame_of_two_texts_is_refused(source: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        pair_template(template(source), "")
    assert reason in refused.value.message
    assert "the chat template of a model" in refused.value.message
    assert "--task classify" in refused.value.hint


def test_a_template_that_never_ends_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "render_template.py"
    source = Path(render_template.__file__).read_text(encoding="utf-8")
    script.write_text(source.replace("_CPU_SECONDS = 10", "_CPU_SECONDS = 1"), encoding="utf-8")
    monkeypatch.setattr(chat_template.render_template, "__file__", str(script))
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(CheckpointError, match="it uses up the time or the memory"):
        pair_template(template(loops + ROLES), "")
