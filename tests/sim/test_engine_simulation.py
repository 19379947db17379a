"""Scheduler, block pool and engine under random load: invariants after every step, and the texts of solo runs."""

import random

import msgspec
import pytest

from model.batch import SamplingParams
from server.engine.drafting import UNKNOWN_COSTS, StepCosts
from server.engine.engine import Engine
from server.engine.messages import Choice, Request
from server.engine.scheduler import SchedulerLimits
from tests.sim.fake_runner import FakeRunner, solo

EOS = frozenset({7})
SEEDS_A_TEST = 50


class Simulation:
    """One random run: requests arrive, some are aborted, and all that happens is checked against the rules."""

    def __init__(self, seed: int, *, is_asynchronous: bool = False) -> None:
        self.random = rng = random.Random(seed)
        block_size = rng.choice([1, 2, 4, 16])
        max_num_seqs = rng.randint(1, 8)
        self.max_model_len = rng.randint(8, 80)
        smallest_pool = -(-self.max_model_len // block_size)
        self.limits = SchedulerLimits(
            max_num_seqs=max_num_seqs,
            max_step_tokens=rng.randint(max_num_seqs, 40),
            num_blocks=smallest_pool + rng.choice([0, 0, 1, 3, 10, 100]),
            block_size=block_size,
            prefix_caching=rng.random() < 0.8,
            step_costs=StepCosts((1, 8, 32), (1.0, 1.1, rng.choice([1.2, 4.0])))
            if rng.random() < 0.7
            else UNKNOWN_COSTS,
            draft_costs=StepCosts((1, 4, 16), (0.05, 0.06, 0.1)) if rng.random() < 0.5 else None,
            prompt_costs=StepCosts((1, 8), (1.0, rng.choice([1.1, 2.0, 8.0]))) if rng.random() < 0.7 else UNKNOWN_COSTS,
        )
        self.is_asynchronous = is_asynchronous
        self.start_worker()
        self.requests: list[Request] = []
        self.expected: dict[int, list[int]] = {}
        self.expected_reasons: dict[int, str] = {}
        self.prompts: dict[int, list[int]] = {}
        self.received: dict[int, list[int]] = {}
        self.prompt_logprobs: dict[int, list[float]] = {}
        self.running: set[int] = set()
        self.reasons: dict[int, str] = {}
        self.next_id = 0
        self.prefixes = [[rng.randrange(50) for _ in range(60)] for _ in range(2)]

    def start_worker(self) -> None:
        limits = self.limits
        self.runner = FakeRunner(
            limits.block_size, limits.max_step_tokens, limits.max_num_seqs, is_asynchronous=self.is_asynchronous
        )
        self.engine = Engine(self.runner, limits, self.max_model_len, EOS)

    def die(self) -> None:
        """The worker is gone with all that was on its way; a new one goes on with what was received."""
        self.start_worker()
        for request in self.requests:
            choices = [
                Choice(choice.sequence_id, choice.index, list(self.received[choice.sequence_id]))
                for choice in request.choices
                if choice.sequence_id in self.running
            ]
            for choice in choices:
                self.prompt_logprobs.pop(choice.sequence_id, None)
            if choices:
                self.engine.add(msgspec.structs.replace(request, choices=choices))

    def arrive(self) -> None:
        rng = self.random
        num_prompt = rng.randint(1, self.max_model_len - 1)
        prefix = rng.choice(self.prefixes)[: rng.randint(0, num_prompt)]
        prompt = prefix + [rng.randrange(50) for _ in range(num_prompt - len(prefix))]
        params = SamplingParams(
            max_tokens=rng.randint(0, min(20, self.max_model_len - num_prompt)),
            seed=rng.randrange(3),
            ignore_eos=rng.random() < 0.3,
            stop_token_ids=(3,) if rng.random() < 0.2 else (),
            prompt_logprobs=0 if rng.random() < 0.1 else None,
        )
        choices = []
        for index in range(rng.choice([1, 1, 1, 2, 4])):
            tokens = solo(prompt, params, index, frozenset() if params.ignore_eos else EOS)
            # Sometimes a request goes on that a dead worker had begun.
            known = rng.randrange(len(tokens)) if tokens and rng.random() < 0.1 else 0
            choices.append(Choice(self.next_id, index, tokens[:known]))
            ends = {*params.stop_token_ids, *(() if params.ignore_eos else EOS)}
            self.expected_reasons[self.next_id] = "stop" if tokens and tokens[-1] in ends else "length"
            self.expected[self.next_id] = tokens
            self.received[self.next_id] = tokens[:known]
            self.prompts[self.next_id] = prompt
            self.running.add(self.next_id)
            self.next_id += 1
        salt = rng.choice(["", "", "other"])
        # A prediction that is right for the first choice, but for some tokens.
        prediction = [t if rng.random() < 0.8 else rng.randrange(50) for t in self.expected[choices[0].sequence_id]]
        request = Request(
            prompt_ids=prompt,
            params=params,
            choices=choices,
            priority=rng.choice([0, 0, 0, -1, 5]),
            cache_salt=salt,
            prediction_ids=prediction if rng.random() < 0.5 else [],
        )
        self.requests.append(request)
        self.engine.add(request)

    def abort_some(self) -> None:
        victims = self.random.sample(sorted(self.running), min(len(self.running), self.random.randint(1, 3)))
        self.engine.abort([*victims, 10**6])
        self.running -= set(victims)

    def step(self) -> None:
        before = self.runner.num_read
        result = self.engine.step()
        assert self.runner.num_read > before, "a step without progress while work waits"
        for sequence_id, token in zip(result.sequence_ids, result.token_ids, strict=True):
            self.received[sequence_id].append(token)
        for sequence_id, entries in result.prompt_logprobs.items():
            self.prompt_logprobs.setdefault(sequence_id, []).extend(entry.chosen for entry in entries)
        for finished in result.finished:
            assert finished.sequence_id in self.running, "ended twice, or after its abort"
            self.running.remove(finished.sequence_id)
            self.reasons[finished.sequence_id] = finished.reason
        self.engine._scheduler.check()

    def run(self) -> None:
        rng = self.random
        for _ in range(rng.randint(5, 40)):
            for _ in range(rng.choice([0, 0, 1, 1, 2, 6])):
                self.arrive()
            if self.running and rng.random() < 0.1:
                self.abort_some()
            if rng.random() < 0.02:
                self.die()
            if self.engine.has_work:
                self.step()
        while self.engine.has_work:
            self.step()
        self.check_end()

    def check_end(self) -> None:
        assert not self.running, "admitted and never ended"
        assert self.engine.stats().num_blocks_used == 0
        for sequence_id, reason in self.reasons.items():
            tokens = self.expected[sequence_id]
            assert self.received[sequence_id] == tokens
            assert (
                reason == ("stop" if tokens and (tokens[-1] in EOS or tokens[-1] == 3) else "length")
                or reason == "length"
            )
        for sequence_id, values in self.prompt_logprobs.items():
            known = [-float(token) for token in self.prompts[sequence_id][1:]]
            assert values == (known if sequence_id in self.reasons else known[: len(values)])


@pytest.mark.parametrize("is_asynchronous", [False, True])
@pytest.mark.parametrize("block", range(1000 // SEEDS_A_TEST))
def test_every_request_ends_once_with_the_tokens_of_its_solo_run(block: int, is_asynchronous: bool) -> None:
    for seed in range(block * SEEDS_A_TEST, (block + 1) * SEEDS_A_TEST):
        try:
            Simulation(seed, is_asynchronous=is_asynchronous).run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_the_simulation_exercises_preemption_sharing_and_aborts(is_asynchronous: bool) -> None:
    preemptions = hits = right = wrong = proposed = 0
    for seed in range(40):
        simulation = Simulation(seed, is_asynchronous=is_asynchronous)
        simulation.run()
        assert simulation.runner.max_in_flight == 1 + is_asynchronous
        stats = simulation.engine.stats()
        preemptions += stats.num_preemptions
        hits += stats.prefix_hit_tokens
        right += stats.num_accepted_drafts
        wrong += stats.num_drafts - stats.num_accepted_drafts
        proposed += simulation.runner.num_draft_computed
    assert preemptions > 20
    assert hits > 500
    assert right > 200
    assert wrong > 100
    assert proposed > 500
