"""The one path from prompts to text: outputs of the engine in, pieces of each choice's text out."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from copy import copy
from dataclasses import dataclass

from model.batch import SamplingParams
from server.api.choice_text import ChoiceText, Piece
from server.api.error_responses import unexpected
from server.api.receipt import Receipt
from server.engine.interface import Generation
from server.engine.messages import Output
from server.errors import Draining
from server.metrics import Metrics
from server.protocol.common import CompletionTokensDetails, GenerationRequest, PromptTokensDetails, Usage
from server.served import ServedModel
from server.text.channels import ChannelPlan, Channels
from server.text.stop import StopMatcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model goes on from, and how."""

    token_ids: list[int]
    params: SamplingParams
    echoed: str | None = None
    """The text that each choice begins with, if the client wants the prompt back."""
    prediction_ids: Sequence[int] = ()
    """What the client thinks will come: decides how fast it comes, not what it is."""


class Run:
    """The generation of all choices that one HTTP request asks for. `pieces` is read once."""

    def __init__(
        self,
        request: GenerationRequest,
        model: ServedModel,
        prompts: Sequence[Prompt],
        *,
        channels: ChannelPlan | None,
        cache_salt: str,
        request_id: str,
        metrics: Metrics,
    ) -> None:
        """`channels`: how to split each choice's text; None to leave it as it is."""
        self.request = request
        self.model = model
        self._prompts = prompts
        self._channels = channels
        self._cache_salt = cache_salt
        self._request_id = request_id
        self._choices: list[ChoiceText] = []
        self._num_cached: dict[int, int] = {}
        self._num_accepted = 0
        self._num_rejected = 0
        self._clock = _Clock(metrics, model.name)
        self.receipt = Receipt()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What each choice gained, in the order it came; the last piece of a choice has its finish_reason.

        Choices are numbered prompt by prompt. Raises what admission raises, before the first piece, and ServerError or
        Draining when a choice can't be finished. Closing it, or cancelling its reader, aborts what is unfinished.
        """
        async with AsyncExitStack() as stack:
            generations = [await self._enter(stack, prompt) for prompt in self._prompts]
            self._choices = self._make_choices()
            num_choices = self.request.num_choices
            outputs = await stack.enter_async_context(aclosing(self._outputs(generations)))
            async for prompt_index, output in outputs:
                index = prompt_index * num_choices + output.index
                piece = self._take(prompt_index, index, output)
                if piece.finish_reason is not None and output.finish_reason is None:
                    generations[prompt_index].finish(output.index)
                yield piece
            for index, choice in enumerate(self._choices):
                if not choice.is_over:  # the deadline came first
                    self._clock.finish("length")
                    yield choice.take(Output(index=index, token_ids=[], num_cached=0, finish_reason="length"), index)
        self._clock.end(self.usage())
        self.receipt.is_complete = True

    def usage(self) -> Usage:
        """What was computed so far. A prompt counts once, however many choices it has."""
        num_prompt = sum(len(prompt.token_ids) for prompt in self._prompts)
        num_generated = sum(choice.num_tokens for choice in self._choices)
        of_prompt = PromptTokensDetails(sum(self._num_cached.values()))
        of_completion = CompletionTokensDetails(
            reasoning_tokens=sum(choice.num_reasoning for choice in self._choices),
            accepted_prediction_tokens=self._num_accepted,
            rejected_prediction_tokens=self._num_rejected,
        )
        return Usage(num_prompt, num_generated, num_prompt + num_generated, of_prompt, of_completion)

    async def _enter(self, stack: AsyncExitStack, prompt: Prompt) -> Generation:
        request = self.request
        return await stack.enter_async_context(
            self.model.engine.generate(
                prompt.token_ids,
                prompt.params,
                num_choices=request.num_choices,
                priority=request.queue_priority,
                cache_salt=self._cache_salt,
                prediction_ids=prompt.prediction_ids,
            )
        )

    def _outputs(self, generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Output], None]:
        outputs, deadline_ms = _merged(generations), self.request.deadline_ms
        return outputs if deadline_ms is None else _within(outputs, deadline_ms / 1000)

    def _take(self, prompt_index: int, index: int, output: Output) -> Piece:
        now, choice = time.monotonic(), self._choices[index]
        if output.finish_reason is not None:
            self._note_end(output)
        if not choice.has_begun:
            self._note_cached(prompt_index, output.num_cached)
        if self.receipt.take(output, now):
            self._note_pace()
        piece = choice.take(output, index)
        self._clock.tick(index, len(output.token_ids), now)
        if piece.finish_reason is not None:
            self._clock.finish(piece.finish_reason)
        return piece

    def _make_choices(self) -> list[ChoiceText]:
        request, tokenizer = self.request, self.model.tokenizer
        # Building one takes time in proportion to the stop strings; each choice gets a copy that shares what was built.
        stop = StopMatcher(request.stop, request.include_stop_str_in_output)
        plan = self._channels
        kept = plan.marks if plan is not None else ()
        return [
            ChoiceText(
                request,
                tokenizer,
                copy(stop),
                prompt.token_ids,
                prompt.echoed,
                Channels(plan) if plan is not None else None,
                kept,
            )
            for prompt in self._prompts
            for _ in range(request.num_choices)
        ]

    def _note_end(self, output: Output) -> None:
        self._num_accepted += output.num_accepted
        self._num_rejected += output.num_rejected
        match output.finish_reason:
            case "error":
                logger.error("event=generation_failed id=%s error=%r", self._request_id, output.error)
                raise unexpected(self._request_id)
            case "abort":
                raise Draining("the server ended this request before it was complete")

    def _note_cached(self, prompt_index: int, num_cached: int) -> None:
        # Later choices of a prompt find what the first has computed: that is no news to the client.
        self._num_cached[prompt_index] = min(num_cached, self._num_cached.get(prompt_index, num_cached))
        self.receipt.num_cached = sum(self._num_cached.values())

    def _note_pace(self) -> None:
        receipt = self.receipt
        queue_s, prefill_s = receipt.queue_s, receipt.prefill_s
        # Of several prompts, the first token tells nothing of how long all took.
        if prefill_s is not None and queue_s is not None and len(self._prompts) == 1:
            self.model.pace.note(len(self._prompts[0].token_ids) - receipt.num_cached, prefill_s, queue_s)


async def _merged(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Output], None]:
    """The outputs of all, each with the index of its generation, as they come."""
    if len(generations) == 1:
        async for output in generations[0]:
            yield 0, output
        return
    waiting = {asyncio.ensure_future(anext(one, None)): index for index, one in enumerate(generations)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, read = waiting.pop(task), task.result()
                if read is not None:
                    yield index, read
                    # Not before the output was read: reading may finish the choice that this would wait for.
                    waiting[asyncio.ensure_future(anext(generations[index], None))] = index
    finally:
        for task in waiting:
            task.cancel()


async def _within(
    outputs: AsyncGenerator[tuple[int, Output], None], deadline_s: float
) -> AsyncGenerator[tuple[int, Output], None]:
    """The outputs that come before so many seconds from now."""
    deadline = asyncio.get_running_loop().time() + deadline_s
    async with aclosing(outputs):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    output = await anext(outputs)
            except (StopAsyncIteration, TimeoutError):
                return
            yield output


class _Clock:
    """Measures one request for the metrics."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self._started = time.monotonic()
        self._last: dict[int, float] = {}
        """When each choice last got a token."""
        self._first_token = metrics.time_to_first_token.labels(model_name)
        self._tokens = metrics.tokens(model_name)
        self._metrics = metrics
        self._model_name = model_name

    def tick(self, index: int, num_tokens: int, now: float) -> None:
        """A choice got tokens."""
        if not num_tokens:
            return
        last = self._last.get(index)
        if last is None:
            self._first_token.observe(now - self._started)
        else:
            self._tokens.note_gap((now - last) / num_tokens)
        self._last[index] = now
        self._tokens.num_generated += num_tokens

    def finish(self, reason: str) -> None:
        """A choice ended."""
        self._metrics.request_success.labels(self._model_name, reason).inc()

    def end(self, usage: Usage) -> None:
        """All choices ended."""
        metrics, name = self._metrics, self._model_name
        metrics.e2e_latency.labels(name).observe(time.monotonic() - self._started)
        metrics.prompt_tokens.labels(name).inc(usage.prompt_tokens)
        metrics.request_prompt_tokens.labels(name).observe(usage.prompt_tokens)
        metrics.request_generation_tokens.labels(name).observe(usage.completion_tokens)
