"""Stand-ins for what is slow or needs a process: an engine that says what its script says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors

from model.batch import SamplingParams, TokenLogprobs
from server.engine.interface import EngineStatus, Generation, Phase
from server.engine.messages import ModelInfo, Output, Stats
from server.errors import Draining, EngineDead, NotReady, QueueFull
from server.text.template import ChatTemplate
from server.text.tokenizer import Tokenizer

BOS, EOS, START, END = "<|bos|>", "<|eos|>", "<|start|>", "<|end|>"
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)

Script = Callable[[Sequence[int], int, int], int]
"""(prompt, choice, position) -> token id."""


def byte_tokenizer(*more_tokens: str) -> Tokenizer:
    """One token for each byte, so that a character beyond ASCII takes several, and four special ones and more."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([BOS, EOS, START, END, *more_tokens])
    bos = raw.token_to_id(BOS)
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return Tokenizer(raw, {"bos_token": BOS, "eos_token": EOS})


def chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """The template of the byte tokenizer's model."""
    return ChatTemplate({"default": TEMPLATE}, tokenizer.special_tokens, tokenizer.control_tokens)


def says(tokenizer: Tokenizer, text: str, *, ends: bool = True) -> Script:
    """Every choice says this text; then it ends, or begins again."""
    ids = tokenizer.encode(text, add_special_tokens=False) + ([257] if ends else [])
    return lambda prompt, choice, position: ids[position % len(ids)]


class ScriptedEngine:
    """Generates by a script, one token for each choice in a turn, without a model.

    It is what the API sees of a real engine: admission, several choices at once, EOS and stop tokens, log-probabilities
    (of made-up values), aborts. `gate` holds all requests before their next token while it is cleared.
    """

    def __init__(
        self,
        script: Script,
        *,
        vocab_size: int = 260,
        max_model_len: int = 256,
        max_in_flight: int = 64,
        eos_token_ids: Sequence[int] = (257,),
    ) -> None:
        self.script = script
        self.phase: Phase = "ready"
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails_at: int | None = None
        """Position at which every choice ends with an error."""
        self.stops_at: int | None = None
        """Position at which every choice stands still for ever."""
        self.cached: set[tuple[str, tuple[int, ...]]] = set()
        self.in_flight: set[tuple[int, int]] = set()
        self.calls: list[tuple[object, ...]] = []
        """What `generate` was asked for: prompt, parameters, number of choices, priority, salt."""
        self.predictions: list[list[int]] = []
        """What clients thought would come."""
        self.num_tokens = 0
        self._num_requests = 0
        self._max_in_flight = max_in_flight
        self._model = model_info(vocab_size, max_model_len, eos_token_ids)

    @property
    def model(self) -> ModelInfo | None:
        return None if self.phase == "starting" else self._model

    @property
    def status(self) -> EngineStatus:
        num_running = len(self.in_flight)
        return EngineStatus(
            phase=self.phase,
            detail="loading weights" if self.phase == "starting" else self.phase,
            fraction=0.4 if self.phase == "starting" else 1.0,
            stats=Stats(num_running, 0, num_running, 0, 0, 0),
            num_restarts=0,
            num_in_flight=num_running,
        )

    @asynccontextmanager
    async def generate(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        num_choices: int = 1,
        priority: int = 0,
        cache_salt: str = "",
        prediction_ids: Sequence[int] = (),
    ) -> AsyncIterator[Generation]:
        self._admit(num_choices)
        self.calls.append((prompt_ids, params, num_choices, priority, cache_salt))
        self.predictions.append(list(prediction_ids))
        key = (cache_salt, tuple(prompt_ids))
        num_cached = len(prompt_ids) - 1 if key in self.cached else 0
        self.cached.add(key)
        self._num_requests += 1
        generation = _Scripted(self, self._num_requests, prompt_ids, params, num_choices, num_cached)
        try:
            yield generation
        finally:
            generation.close()

    async def num_cached(self, prompt_ids: list[int], cache_salt: str) -> int | None:
        return len(prompt_ids) - 1 if (cache_salt, tuple(prompt_ids)) in self.cached else 0

    def _admit(self, num_choices: int) -> None:
        match self.phase:
            case "starting":
                raise NotReady("the model is not ready yet")
            case "draining":
                raise Draining("the server is shutting down")
            case "dead":
                raise EngineDead("the worker is not running")
        if len(self.in_flight) + num_choices > self._max_in_flight:
            raise QueueFull(f"{len(self.in_flight)} of {self._max_in_flight} places are taken")


class _Scripted:
    def __init__(
        self,
        engine: ScriptedEngine,
        number: int,
        prompt_ids: list[int],
        params: SamplingParams,
        num_choices: int,
        num_cached: int,
    ) -> None:
        self._engine = engine
        self._prompt_ids = prompt_ids
        self._params = params
        self._num_cached = num_cached
        self._number = number
        self._positions = dict.fromkeys(range(num_choices), 0)
        self._turn = list(self._positions)
        self._started_at: float | None = None
        engine.in_flight |= {(number, index) for index in self._positions}

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        await asyncio.sleep(0)
        await self._engine.gate.wait()
        if not self._turn:
            raise StopAsyncIteration
        if self._positions[self._turn[0]] == self._engine.stops_at:
            await asyncio.Event().wait()
        index = self._turn.pop(0)
        output = self._step(index)
        if output.finish_reason is None:
            self._turn.append(index)
        else:
            self._leave(index)
        return output

    def finish(self, index: int) -> None:
        if index in self._turn:
            self._turn.remove(index)
        self._leave(index)

    def close(self) -> None:
        for index in list(self._positions):
            self._leave(index)

    def _leave(self, index: int) -> None:
        self._positions.pop(index, None)
        self._engine.in_flight.discard((self._number, index))

    def _step(self, index: int) -> Output:
        params, position = self._params, self._positions[index]
        self._positions[index] += 1
        # The later choices find what the first one computed.
        num_cached = self._num_cached if index == 0 else len(self._prompt_ids) - 1
        self._started_at = self._started_at or time.monotonic()
        output = Output(index=index, token_ids=[], num_cached=num_cached, started_at=self._started_at)
        if position == 0 and params.prompt_logprobs is not None:
            output.prompt_logprobs = [self._logprobs(i, params.prompt_logprobs) for i in self._prompt_ids[1:]]
        if params.max_tokens == 0:
            output.finish_reason = "length"
            return output
        if position == self._engine.fails_at:
            output.finish_reason, output.error = "error", "secret-of-the-worker"
            return output
        token_id = self._engine.script(self._prompt_ids, index, position)
        self._engine.num_tokens += 1
        output.token_ids.append(token_id)
        if params.logprobs is not None:
            output.logprobs = [self._logprobs(token_id, params.logprobs)]
        self._end(output, token_id, position + 1)
        return output

    def _end(self, output: Output, token_id: int, num_tokens: int) -> None:
        params = self._params
        eos = set() if params.ignore_eos else set(self._engine._model.eos_token_ids)
        if token_id in eos.union(params.stop_token_ids) and num_tokens > params.min_tokens:
            output.finish_reason, output.stop_token_id = "stop", token_id
        elif num_tokens == params.max_tokens:
            output.finish_reason = "length"

    def _logprobs(self, token_id: int, count: int) -> TokenLogprobs:
        """Token t has log-probability -(t % 7 + 1) / 4, and where the alternatives begin nothing is possible."""
        top_ids = sorted(range(self._engine._model.vocab_size), key=lambda t: t % 7)[:count]
        top = [-(t % 7 + 1) / 4 for t in top_ids]
        if count > 2:
            top[-1] = -float("inf")
        return TokenLogprobs(-(token_id % 7 + 1) / 4, top_ids, top)


def model_info(vocab_size: int, max_model_len: int, eos_token_ids: Sequence[int]) -> ModelInfo:
    """What the fake engine says it serves."""
    return ModelInfo(
        architecture="Scripted",
        num_parameters=0,
        dtype="float32",
        device="none",
        attention="none",
        vocab_size=vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=64,
        max_step_tokens=512,
        block_size=16,
        kv_cache_dtype="float32",
        num_blocks=64,
        eos_token_ids=list(eos_token_ids),
        bos_token_id=256,
        weights_bytes=0,
        kv_cache_bytes=0,
    )
