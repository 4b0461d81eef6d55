"""Small tokenizers of three kinds, and chat templates in the style of seven families of models."""

from functools import cache

SPECIAL = (
    "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>", "<unk>",
)  # fmt: skip
CORPUS = (
    "the cat sat on the mat and said good day to you all, my friends",
    "what is the capital of France? The capital of France is Paris.\n\nUser asks, assistant answers:\n",
    "Once upon a time there was a little house in the wood, and in the house lived an old woman",
)

TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama-3": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) "
    "+ '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] "
    "+ ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
    "zephyr": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "phi-3": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "plain": "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
}
"""Without marks of what the assistant writes."""
MARKED = {
    "chatml, marked": """{%- for m in messages %}
    {%- if m['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
            {{- m['content'] + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- else %}
        {{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    "chatml, heading marked": "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ '<|im_start|>assistant\n' + m['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "chatml, end unmarked": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "thinking": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
}
"""With `{% generation %}`. In the last, earlier answers are rendered differently once others follow."""
ENDS = {
    "chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>", "zephyr": "</s>",
    "phi-3": "<|im_end|>", "plain": "<|endoftext|>", "chatml, heading marked": "<|im_end|>", "chatml, marked": "<|im_end|>", "chatml, end unmarked": "<|im_end|>",
    "thinking": "<|im_end|>",
}  # fmt: skip
_BOS = {"llama-3": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>"}
_EOS = {"mistral": "</s>", "zephyr": "</s>"}


@cache
def _byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    backend.train_from_iterator([*CORPUS, "a\n\n\nb\n\n\nc   d   e"] * 3, trainer)
    return backend.to_str()


@cache
def _sentence_pieces():
    """Words begin with a mark for the space before them, the first of a text too, and bos is put before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(list(CORPUS) * 3, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend.to_str()


def tokenizer(kind="byte-level", template=None, **options):
    """A tokenizer, with one of the templates above or (None) without any."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": _BOS.get(template), "eos_token": _EOS.get(template, "<|endoftext|>"), "pad_token": "<|pad|>"}
    if kind == "sentence-pieces":
        names |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    text = {"byte-level": _byte_level, "sentence-pieces": _sentence_pieces}[kind]()
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **{**names, **options})
    made.add_special_tokens({"additional_special_tokens": [token for token in SPECIAL if token != "<unk>"]})
    made.chat_template = {**TEMPLATES, **MARKED}.get(template, template)
    return made
