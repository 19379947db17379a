"""The fields of OpenAI's requests, and of other servers', that we know and don't honour yet, each with the reason."""

from server.protocol.wire import Refusal

_THOUGHTS = Refusal("use reasoning_effort, or thinking_token_budget for a number of tokens")
_BEAMS = Refusal("there is no beam search; use n or best_of with a temperature")

COMMON: dict[str, Refusal] = {
    "spaces_between_special_tokens": Refusal("tokens are joined as the tokenizer joins them", (True,)),
    "use_beam_search": Refusal(_BEAMS.reason, (False,)),
    "length_penalty": Refusal(_BEAMS.reason, (1, 1.0)),
    "early_stopping": Refusal(_BEAMS.reason, (False,)),
    "prompt_embeds": Refusal("send text or token ids"),
    "n_predict": Refusal("use max_tokens"),
}

COMPLETIONS: dict[str, Refusal] = COMMON | {
    "messages": Refusal("messages go to /v1/chat/completions"),
    "max_completion_tokens": Refusal("use max_tokens"),
}

CHAT: dict[str, Refusal] = COMMON | {
    "modalities": Refusal("answers are text", (["text"], [])),
    "audio": Refusal("answers are text"),
    "web_search_options": Refusal("the server reads nothing from the web; put what you found into a message"),
    "moderation": Refusal("answers are not moderated"),
    "prompt_cache_retention": Refusal("cached prompts stay in memory while there is room", ("in_memory",)),
    "prompt_cache_options": Refusal("prompts are cached without being asked", ({}, {"mode": "implicit"})),
    "reasoning": _THOUGHTS,
    "thinking": _THOUGHTS,
    "thinking_budget": _THOUGHTS,
    "chat_template": Refusal("templates come with the model, never with a request"),
    "documents": Refusal("put the documents into a message", ([],)),
    "mm_processor_kwargs": Refusal("the model reads text only", ({},)),
    "echo": Refusal("use continue_final_message, or echo on /v1/completions", (False,)),
    "best_of": Refusal("use n, or best_of on /v1/completions", (1,)),
    "suffix": Refusal("a chat has none"),
    "prompt": Refusal("prompts go to /v1/completions"),
}
