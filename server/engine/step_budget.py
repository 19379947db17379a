"""How many tokens a step may compute where prompts and streams share it."""

from bisect import bisect_right

from server.engine.drafting import StepCosts

# A prompt always gets this far in a step, however dear a token is.
MIN_PROMPT_TOKENS = 16


def step_budget(num_decoding: int, num_prompts: int, costs: StepCosts, most: int) -> int:
    """Tokens of the next step, at most `most`.

    Prompts get as much of its time as the sequences that decode, or more where there are more of them: so a stream's
    tokens come at half their pace at worst while a prompt is read, and a burst of prompts does not wait for one stream.
    """
    if num_decoding == 0 or num_prompts == 0:
        return most
    share = max(1.0, num_prompts / num_decoding)
    affordable = bisect_right(range(1, most + 1), (1 + share) * costs.at(num_decoding), key=costs.at)
    return min(most, max(affordable, num_decoding + MIN_PROMPT_TOKENS))
