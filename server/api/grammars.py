"""Checks the form that a request asks for before anything is generated."""

from model.grammar import Vocabulary
from server.errors import InvalidRequest
from server.grammar.checker import GrammarChecker
from server.protocol.structured import Form
from server.served import ServedModel


class GrammarDoor:
    """One checker for each model that was asked for a form."""

    def __init__(self) -> None:
        self._checkers: dict[str, GrammarChecker] = {}

    async def check(self, form: Form | None, model: ServedModel) -> list[str]:
        """Warnings about what can't be enforced. Raises InvalidRequest naming the field, QueueFull."""
        if form is None:
            return []
        verdict = await self._checker(model, form.param).check(form.grammar)
        if verdict.error:
            raise InvalidRequest(verdict.error, param=form.param)
        return [f"{form.param}: {warning}" for warning in (*form.warnings, *verdict.warnings)]

    def _checker(self, model: ServedModel, param: str) -> GrammarChecker:
        checker = self._checkers.get(model.name)
        if checker is None:
            if not model.follows_grammars:
                raise InvalidRequest(
                    "this model's tokenizer gives no token a text of its own, which grammars need", param=param
                )
            # Asked for in the checker's threads: a large vocabulary takes a while.
            checker = self._checkers[model.name] = GrammarChecker(lambda: _vocabulary(model))
        return checker


def _vocabulary(model: ServedModel) -> Vocabulary:
    vocabulary = model.vocabulary(model.info)
    assert vocabulary is not None
    return vocabulary
