"""Conversations that go on from one question to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias
from weakref import ref

from internvl_rt import _core
from internvl_rt.answers.results import Answer
from internvl_rt.answers.settings import GenerationSettings
from internvl_rt.errors import PromptError
from internvl_rt.images import Orientation
from internvl_rt.model.answer_stream import AnswerStream, AsyncAnswerStream
from internvl_rt.model.asking import AskArguments, Asked, Image, PictureRules, ask
from internvl_rt.model.preprocessor import Preprocessor
from internvl_rt.model.prompt import Prompt
from internvl_rt.model.requests import RunningRequest
from internvl_rt.prompts.messages import Messages

if TYPE_CHECKING:
    from typing_extensions import Unpack

Requests: TypeAlias = Callable[[Sequence[GenerationSettings]], list[_core.AnswerRequest]]
Begin: TypeAlias = Callable[[Prompt, Sequence[_core.AnswerRequest], bool], RunningRequest]
"""Begins to answer; the last argument says whether that was cancelled already."""

Cut: TypeAlias = Callable[[_core.Picture, str], _core.Picture]

_Seen: TypeAlias = tuple[tuple[int, int], Orientation]
"""How a picture was seen: its size, and whether it was turned."""


class Session:
    """A conversation with a model. Made by ``Model.session``.

    What was computed for a question stays in the KV cache, so that the next one computes only what it adds;
    ``usage.reused_tokens`` tells how much that was. The cache is shared: where other calls need the room, the
    conversation is computed again when it goes on. The answers do not depend on that. The tokens of an answer
    stay as they were generated, and the pictures as they were cut into tiles: a later picture does not change
    them.

    Where the conversation does not fit the context any more, its oldest questions are left out with their
    answers; the one with the newest picture is the last to go, and the system message stays.
    ``usage.dropped_turns`` tells how many there were.

    One question is answered at a time; ``fork`` gives a branch to ask beside. It may be called from any
    thread. A question that fails, or whose stream is closed before its end, is not part of the conversation;
    one that is cancelled is, with what was written of its answer.
    """

    def __init__(
        self,
        conversation: _core.Session,
        preprocessor: Preprocessor,
        rules: PictureRules,
        requests: Requests,
        begin: Begin,
        cut: Cut,
    ) -> None:
        """Asks nothing yet.

        Args:
            conversation: how far it is.
            preprocessor: of the model.
            rules: of the model, for its pictures.
            requests: makes the requests of answers.
            begin: hands a prompt to the scheduler.
            cut: makes tiles of a picture.
        """
        self._conversation = conversation
        self._preprocessor = preprocessor
        self._rules = rules
        self._requests = requests
        self._begin = begin
        self._cut = cut
        self._seen: list[tuple[_Seen, ...]] = []
        """Of the pictures of every turn."""
        self._turn: ref[_Turn] | None = None
        self._lock = Lock()
        self._closed = False

    @property
    def turns(self) -> int:
        """Questions that are part of the conversation, with their answers."""
        return self._conversation.turns

    def ask(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> Answer:
        """Answers the next question.

        Args:
            question: see ``Model.chat``; messages are one message of the user.
            images: pictures that come with it. A question without marks has them in front.
            arguments: see ``Model.chat``, without ``history`` and ``system``.

        Raises:
            PromptError: as ``Model.chat``; if the session is closed, or another question is being answered.
            ImageError: as ``Model.chat``.
            CacheFullError: as ``Model.chat``.
        """
        return self.stream(question, images, **arguments).whole()

    def stream(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> AnswerStream:
        """Answers the next question piece by piece; see ``ask`` and ``Model.stream``."""
        return AnswerStream(self._start_of(question, images, arguments))

    async def aask(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> Answer:
        """Answers the next question, for asyncio; see ``ask`` and ``Model.achat``."""
        return await self.astream(question, images, **arguments).whole()

    def astream(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> AsyncAnswerStream:
        """Answers the next question piece by piece, for asyncio; see ``ask`` and ``Model.astream``."""
        return AsyncAnswerStream(self._start_of(question, images, arguments))

    def fork(self) -> Session:
        """A branch: a session that goes on from the same conversation, independently of this one.

        Raises:
            PromptError: if the session is closed, or a question is being answered.
        """
        with self._lock:
            self._check_idle()
            branch = Session(
                self._conversation.copy(),
                self._preprocessor,
                self._rules,
                self._requests,
                self._begin,
                self._cut,
            )
            branch._seen = list(self._seen)
            return branch

    def close(self) -> None:
        """Ends the conversation, and the answer that is being written. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            turn = None if self._turn is None else self._turn()
        if turn is not None:
            turn.cancel()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_idle(self) -> None:
        if self._closed:
            raise PromptError("this session was closed. Begin another one with session().")
        turn = None if self._turn is None else self._turn()
        if turn is not None and not turn.over:
            raise PromptError(
                "this session is answering another question. Read its stream to the end or close it; fork() "
                "gives a branch to ask beside."
            )

    def _start_of(
        self, question: str | Messages, images: Sequence[Image] | Image | None, arguments: AskArguments
    ) -> Callable[[bool], RunningRequest]:
        for name in ("history", "system"):
            if name in arguments:
                raise PromptError(f"{name} is what the session has already. Leave it out.")
        asked = ask(question, images, arguments, self._rules)
        if len(asked.conversation.turns) != 1 or asked.conversation.system is not None:
            raise PromptError("a session is asked one question at a time: one message of the user.")
        requests = self._requests([asked.settings])
        return lambda cancelled: self._answer(asked, requests, cancelled)

    def _answer(
        self, asked: Asked, requests: Sequence[_core.AnswerRequest], cancelled: bool
    ) -> RunningRequest:
        turn = _Turn(self)
        with self._lock:
            self._check_idle()
            self._turn = ref(turn)
        try:
            prompt, turn.prompt = self._preprocessor.next_turn(self._conversation, asked, self._cut)
            seen = tuple((picture.size, picture.orientation) for picture in prompt.pictures)
            turn.seen = [*(self._seen[i] for i in turn.prompt.kept), seen]
            running = self._begin(prompt, requests, cancelled)
        except BaseException:
            turn.end(None)
            raise
        shown = [one for of_turn in turn.seen for one in of_turn]
        running = replace(
            running,
            ended=turn.end,
            image_sizes=tuple(size for size, _ in shown),
            orientations=tuple(orientation for _, orientation in shown),
        )
        turn.request = running.request
        return running

    def _add(self, turn: _Turn, answer: Answer) -> None:
        with self._lock:
            if not self._closed and turn.prompt is not None:
                self._conversation.add(turn.prompt, answer.token_ids)
                self._seen = turn.seen


class _Turn:
    """A question that is being answered."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.prompt: _core.SessionPrompt | None = None
        self.seen: list[tuple[_Seen, ...]] = []
        self.request: _core.Request | None = None
        self.over = False

    def end(self, answer: Answer | None) -> None:
        """It was answered; or it was not."""
        if answer is not None and not self.over:
            self._session._add(self, answer)
        self.over = True

    def cancel(self) -> None:
        if self.request is not None:
            self.request.cancel()
