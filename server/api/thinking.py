"""How long a chat's answer may think."""

from model.thinking import ThinkingBudget
from server.errors import InvalidRequest
from server.protocol.chat import ChatCompletionRequest
from server.served import ServedModel
from server.text.channels import ChannelPlan


def thinking_budget(
    model: ServedModel, body: ChatCompletionRequest, plan: ChannelPlan, max_tokens: int
) -> ThinkingBudget | None:
    """The budget that the request asks for; None if its thoughts need no end, or the answer's form allows none.

    Raises InvalidRequest where a number was asked for and can't be kept.
    """
    if not model.can_bound_thoughts:
        if body.thinking_token_budget is not None:
            raise InvalidRequest(
                "this model's thoughts can't be told from its answer: its chat template has no tags for them",
                param="thinking_token_budget",
            )
        return None
    is_switched_off = bool(model.dialect.switches) and not plan.is_thinking
    if body.reasoning_effort == "none" and body.thinking_token_budget is None and is_switched_off:
        return None  # the template has done it
    most = body.max_thinking(max_tokens)
    if most is None or most >= max_tokens or plan.tags is None:
        return None
    return ThinkingBudget(
        max_tokens=most,
        opening=plan.tags.opening.encode(),
        closing=plan.tags.closing.encode(),
        closing_ids=tuple(model.tokenizer.encode_continuation(plan.tags.closing)),
        is_open=plan.is_thinking,
    )
