"""What the scheduler promises, each promise in a small scene."""

from model.batch import SamplingParams
from server.engine.engine import Engine
from server.engine.messages import Choice, Request, StepResult
from server.engine.scheduler import SchedulerLimits
from tests.sim.fake_runner import FakeRunner, solo


class Scene:
    """An engine over a fake runner, with requests added by hand."""

    def __init__(
        self, *, max_num_seqs: int = 4, max_step_tokens: int = 16, num_blocks: int = 64, prefix_caching: bool = True
    ) -> None:
        self.runner = FakeRunner(4, max_step_tokens, max_num_seqs)
        limits = SchedulerLimits(max_num_seqs, max_step_tokens, num_blocks, 4, prefix_caching)
        self.engine = Engine(self.runner, limits, num_blocks * 4, frozenset())
        self.results: list[StepResult] = []
        self.next_id = 0

    def add(
        self, prompt: list[int], max_tokens: int = 4, *, num_choices: int = 1, priority: int = 0, salt: str = ""
    ) -> int:
        choices = [Choice(self.next_id + index, index) for index in range(num_choices)]
        params = SamplingParams(max_tokens=max_tokens)
        self.engine.add(Request(prompt_ids=prompt, params=params, choices=choices, priority=priority, cache_salt=salt))
        self.next_id += num_choices
        return self.next_id - num_choices

    def step(self) -> StepResult:
        self.results.append(self.engine.step())
        self.engine._scheduler.check()
        return self.results[-1]

    def run_steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def run(self) -> None:
        while self.engine.has_work:
            self.step()

    def tokens(self, sequence_id: int) -> list[int]:
        return [
            token
            for result in self.results
            for one, token in zip(result.sequence_ids, result.token_ids, strict=True)
            if one == sequence_id
        ]

    def steps_until_first_token(self, sequence_id: int) -> int:
        while True:
            if sequence_id in self.step().sequence_ids:
                return len(self.results)

    def num_cached(self, sequence_id: int) -> int:
        return next(s.num_cached for r in self.results for s in r.started if s.sequence_id == sequence_id)


def prompt(start: int, length: int) -> list[int]:
    return list(range(start, start + length))


def test_a_short_prompt_behind_a_long_one_starts_within_two_steps() -> None:
    scene = Scene(max_step_tokens=16, num_blocks=1000)
    scene.add(prompt(0, 3000))
    scene.step()
    short = scene.add(prompt(5000, 8))
    assert scene.steps_until_first_token(short) <= 1 + 2


def test_short_prompts_behind_many_long_ones_start_soon() -> None:
    scene = Scene(max_num_seqs=16, max_step_tokens=32, num_blocks=1000)
    for number in range(8):
        scene.add(prompt(1000 * number, 400))
    short = scene.add(prompt(9000, 8))
    assert scene.steps_until_first_token(short) <= 2


def test_a_long_prompt_is_not_starved_by_a_stream_of_short_ones() -> None:
    scene = Scene(max_num_seqs=8, max_step_tokens=16, num_blocks=1000)
    long = scene.add(prompt(0, 160), max_tokens=1)
    for number in range(100):
        scene.add(prompt(1000 + 20 * number, 16), max_tokens=1)
        if long in scene.step().sequence_ids:
            break
    assert len(scene.results) <= 160 / 8 + 1, "half of each step's budget is its own"


def test_a_decoding_sequence_gets_its_token_in_every_step_of_a_long_prefill() -> None:
    scene = Scene(max_step_tokens=16, num_blocks=1000)
    decoding = scene.add(prompt(0, 4), max_tokens=30)
    scene.step()
    scene.add(prompt(1000, 300))
    for _ in range(20):
        assert decoding in scene.step().sequence_ids


def test_choices_of_one_request_share_the_blocks_of_its_prompt() -> None:
    scene = Scene(num_blocks=64, max_num_seqs=4, max_step_tokens=64)
    first = scene.add(prompt(0, 41), num_choices=4, max_tokens=2)
    scene.run()
    assert [scene.num_cached(first + index) for index in range(4)] == [0, 40, 40, 40]
    assert scene.runner.num_computed < 41 + 3 * 4 + 4 * 2


def test_prompts_that_arrive_together_and_begin_alike_compute_the_beginning_once() -> None:
    scene = Scene(max_num_seqs=8, max_step_tokens=64)
    for number in range(4):
        scene.add([*prompt(0, 40), 100 + number], max_tokens=1)
    scene.run()
    assert scene.runner.num_computed == 41 + 3 * 1


def test_a_follow_up_turn_finds_the_answer_of_the_turn_before() -> None:
    scene = Scene()
    first = scene.add(prompt(0, 10), max_tokens=11)
    scene.run()
    second = scene.add([*prompt(0, 10), *scene.tokens(first), 99], max_tokens=1)
    scene.run()
    assert scene.num_cached(second) == 20, "all full blocks of the 20 tokens that were computed"


def test_is05_other_salts_share_nothing() -> None:
    scene = Scene()
    scene.add(prompt(0, 20), salt="a")
    scene.run()
    same, other = scene.add(prompt(0, 20), salt="a"), scene.add(prompt(0, 20), salt="b")
    scene.run()
    assert (scene.num_cached(same), scene.num_cached(other)) == (16, 0)


def test_without_prefix_caching_requests_share_nothing_but_choices_do() -> None:
    scene = Scene(prefix_caching=False)
    scene.add(prompt(0, 20))
    scene.run()
    again = scene.add(prompt(0, 20), num_choices=2)
    scene.run()
    assert (scene.num_cached(again), scene.num_cached(again + 1)) == (0, 16)


def test_en08_running_out_of_blocks_preempts_and_changes_no_text() -> None:
    scene = Scene(max_num_seqs=4, num_blocks=8)
    prompts = [prompt(100 * number, 5) for number in range(4)]
    ids = [scene.add(one, max_tokens=20) for one in prompts]
    scene.run()
    assert scene.engine.stats().num_preemptions > 0
    for sequence_id, one in zip(ids, prompts, strict=True):
        assert scene.tokens(sequence_id) == solo(one, SamplingParams(max_tokens=20))


def test_en07_two_that_fit_only_singly_both_end_without_evicting_each_other_for_ever() -> None:
    scene = Scene(num_blocks=8)
    for number in range(2):
        scene.add(prompt(100 * number, 8), max_tokens=20)
    scene.run()
    assert 0 < scene.engine.stats().num_preemptions <= 8


def test_an_urgent_request_takes_the_place_of_one_that_is_less_so() -> None:
    scene = Scene(max_num_seqs=1)
    slow = scene.add(prompt(0, 8), max_tokens=30)
    scene.step()
    urgent = scene.add(prompt(100, 8), max_tokens=2, priority=-1)
    scene.step()
    assert scene.results[-1].sequence_ids == [urgent]
    scene.run()
    assert scene.tokens(slow) == solo(prompt(0, 8), SamplingParams(max_tokens=30))


def test_equal_priority_waits_for_a_slot() -> None:
    scene = Scene(max_num_seqs=1)
    first = scene.add(prompt(0, 8), max_tokens=3)
    second = scene.add(prompt(100, 8), max_tokens=3)
    scene.run()
    order = [one for result in scene.results for one in result.sequence_ids]
    assert order == [first] * 3 + [second] * 3


def test_others_pass_a_prompt_that_lacks_blocks_but_not_for_ever() -> None:
    scene = Scene(max_num_seqs=4, max_step_tokens=16, num_blocks=16)
    for number in range(2):
        scene.add(prompt(100 * number, 4), max_tokens=20)
    scene.step()
    big = scene.add(prompt(1000, 50), max_tokens=1)
    for number in range(400):
        if scene.engine.stats().num_waiting < 3:
            scene.add(prompt(2000 + 10 * number, 4), max_tokens=12)
        if big in scene.step().sequence_ids:
            return
    raise AssertionError("starved")


def test_aborting_frees_everything_at_once() -> None:
    scene = Scene(max_num_seqs=2)
    ids = [scene.add(prompt(100 * number, 30)) for number in range(4)]
    scene.step()
    scene.engine.abort([*ids, 12345])
    assert scene.engine.stats().num_blocks_used == 0
    assert not scene.engine.has_work


def test_a_request_that_can_not_fit_ends_with_an_error_and_harms_nobody() -> None:
    scene = Scene(num_blocks=4)
    too_long = scene.add(prompt(0, 40))
    good = scene.add(prompt(0, 4))
    scene.run()
    reasons = {f.sequence_id: f.reason for result in scene.results for f in result.finished}
    assert reasons == {too_long: "error", good: "length"}


def test_nobody_is_preempted_for_an_urgent_request_that_would_not_fit_even_then() -> None:
    scene = Scene(max_num_seqs=4, num_blocks=16)
    scene.add(prompt(0, 36), max_tokens=20, priority=0)
    scene.run_steps(4)
    for number in range(2):
        scene.add(prompt(1000 + 100 * number, 4), max_tokens=20, priority=10)
    scene.run_steps(2)
    scene.add(prompt(5000, 45), max_tokens=1, priority=5)
    scene.run_steps(5)
    assert scene.engine.stats().num_preemptions == 0
    scene.run()
