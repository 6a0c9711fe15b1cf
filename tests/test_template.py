"""What is known of a prompt before its question is there, with the templates of several families."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from chatlab.engines.template import ChatTemplate
from chatlab.errors import InvalidInput
from chatlab.messages import Message

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}"
)
TEMPLATES = {
    "llama 3": (
        "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
        "+ '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    ),
    "gemma, no system role": (
        "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{{ '<start_of_turn>' "
        "+ ('model' if message['role'] == 'assistant' else 'user') + '\n' + message['content'] | trim "
        "+ '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}"
    ),
    "mistral, a space before the question": (
        "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "vicuna, one line": (
        "{% for message in messages %}{{ message['role'] | upper + ': ' + message['content'] + ' ' }}{% endfor %}"
        "{{ 'ASSISTANT:' }}"
    ),
    "qwen 3, no thoughts before a question": (
        "{% set ns = namespace(last=0) %}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}"
        "{% set content = message['content'] %}{% if message['role'] == 'assistant' and loop.index0 < ns.last %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    ),
}
QUESTIONS = ("Why is the sea salty?", "how", "Über", "7 + 5 =", "`x`", "x")
SO_FAR: list[Message] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Is 7 prime?"},
    {"role": "assistant", "content": "<think>\nOnly 1 and 7 divide it.\n</think>\n\nYes, it is"},
]


def asked(question: str) -> list[Message]:
    return [*SO_FAR, {"role": "user", "content": question}]


@pytest.fixture
def tokenizer(bundled_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.fixture(params=["the bundled model's", *TEMPLATES])
def template(request: pytest.FixtureRequest, tokenizer: Any) -> ChatTemplate:
    tokenizer.chat_template = TEMPLATES.get(request.param, tokenizer.chat_template)
    return ChatTemplate(tokenizer, request.param)


def test_every_question_s_prompt_begins_with_it(template: ChatTemplate, tokenizer: Any) -> None:
    prefix_ids = template.prefix_ids(SO_FAR)
    for question in QUESTIONS:
        prompt = template.render(asked(question))
        assert template.encode(prompt)[: len(prefix_ids)] == prefix_ids
        before, known = prompt[: prompt.rindex(question)], tokenizer.decode(prefix_ids)
        assert before.startswith(known)
        assert len(before) - len(known) <= 1, "one token may reach into the question"


@pytest.mark.parametrize("template", ["gemma, no system role"], indirect=True)
def test_a_conversation_that_the_template_does_not_take(template: ChatTemplate) -> None:
    with pytest.raises(InvalidInput, match="alternate"):
        template.prefix_ids(asked("Two questions, one after the other?"))
