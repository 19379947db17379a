import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.stop import StopMatcher

LETTERS = st.text(alphabet="ab👍", max_size=30)
STOPS = st.lists(st.text(alphabet="ab👍", min_size=1, max_size=5), max_size=5)


def run(pieces, stops, include=False):
    """All text that was sent, and the stop string that ended it."""
    matcher = StopMatcher(stops, include)
    sent, found = "", None
    for piece in pieces:
        text, found = matcher.push(piece)
        sent += text
    return sent + matcher.flush(), found


def search(text, stops, include=False):
    """The definition: the stop string that is complete first, the longest of those that end there."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


@given(st.lists(LETTERS, max_size=8), STOPS, st.booleans())
def test_st01_any_cut_of_the_text_gives_what_a_search_of_the_whole_gives(pieces, stops, include):
    assert run(pieces, stops, include) == search("".join(pieces), stops, include)


@given(st.lists(LETTERS, max_size=8), STOPS)
def test_st01_text_that_is_sent_is_never_taken_back(pieces, stops):
    matcher, sent = StopMatcher(stops), ""
    expected = search("".join(pieces), stops)[0]
    for piece in pieces:
        sent += matcher.push(piece)[0]
        assert expected.startswith(sent)


@given(st.lists(LETTERS, max_size=8), STOPS)
def test_no_more_is_held_back_than_may_begin_a_stop_string(pieces, stops):
    matcher, text, sent = StopMatcher(stops), "", ""
    for piece in pieces:
        text += piece
        new, found = matcher.push(piece)
        sent += new
        if found is None:
            held = text[len(sent) :]
            assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "sent", "found"),
    [
        (["D", "E", "F", "G"], ["DEFG", "EFX"], "", "DEFG"),
        (["D", "E", "F", "X"], ["DEFG", "EFX"], "D", "EFX"),
        (["D", "E", "F", "F"], ["DEFG", "EFX"], "DEFF", None),
        (["aa", "ab"], ["aab"], "a", "aab"),
        (["hi \n", "\nUser:"], ["\n\nUser:", "\n\n\n"], "hi ", "\n\nUser:"),
        (["ok 👍", "🏽 no"], ["👍🏽"], "ok ", "👍🏽"),
    ],
)
def test_st01_known_cases(pieces, stops, sent, found):
    assert run(pieces, stops) == (sent, found)


def test_text_after_a_stop_string_is_dropped():
    matcher = StopMatcher(["."])
    assert matcher.push("One. Two.") == ("One", ".")
    assert matcher.push(" Three.") == ("", ".")
    assert matcher.flush() == ""


@given(st.lists(LETTERS, max_size=8), STOPS)
def test_before_min_tokens_nothing_stops_and_nothing_is_lost(pieces, stops):
    matcher = StopMatcher(stops)
    results = [matcher.push(piece, may_stop=False) for piece in pieces]
    assert all(found is None for _, found in results)
    assert "".join(text for text, _ in results) + matcher.flush() == "".join(pieces)


def test_a_stop_string_that_is_complete_after_min_tokens_stops_though_it_began_before():
    matcher = StopMatcher(["END"])
    assert matcher.push("END E", may_stop=False) == ("END ", None)
    assert matcher.push("ND.") == ("", "END")


def test_in22_the_number_of_stop_strings_does_not_change_the_number_of_steps(monkeypatch):
    text = "ab" * 2000

    def count_steps(stops):
        steps = 0
        step = StopMatcher._step

        def counted(self, character):
            nonlocal steps
            steps += 1
            step(self, character)

        with monkeypatch.context() as patch:
            patch.setattr(StopMatcher, "_step", counted)
            assert run([text], stops) == (text, None)
        return steps

    many = ["ab" * 120 + str(i) for i in range(16)]
    assert count_steps(many) == count_steps(["x"]) == len(text)
