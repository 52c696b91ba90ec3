"""Whatever people change in a chat program, the agent has the conversation that the program shows."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine_support import Played, echo, key, outcome, send, serving, texts
from strandline._engine.requests import ListedMessages, Request
from strandline._engine.service import Service
from strandline.testing._virtual import VirtualClock, run_virtual

SAID = "said: "
A, B, C = (SAID + letter for letter in "abc")
TEXTS = st.sampled_from([A, B, C])
"""Few, so that people often say the same again."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), TEXTS),
        st.tuples(st.just("edit"), st.integers(0, 5), TEXTS),
        st.tuples(st.just("regenerate")),
        st.tuples(st.just("show"), st.integers(0, 11)),
        st.tuples(st.just("another way"), TEXTS),
    ),
    max_size=14,
)
OTHER = "another way: "


class Chat:
    """A chat in which every version of the conversation is kept: lists of what a person said."""

    def __init__(self, service: Service, target: Played) -> None:
        self._service = service
        self._target = target
        self.shown: list[str] = []
        self._versions: list[list[str]] = []

    async def play(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("send", text):
                await self._send([*self.shown, text])
            case ("edit", number, text) if self.shown:
                await self._send([*self.shown[: number % len(self.shown)], text])
            case ("regenerate",) if self.shown:
                await self._send(self.shown)
            case ("show", number) if self._versions:
                self.shown = self._versions[number % len(self._versions)]
            case ("another way", text):
                await outcome(await send(self._service, OTHER + text))

    async def _send(self, conversation: list[str]) -> None:
        *earlier, last = self.shown = list(conversation)
        self._versions.append(self.shown)
        listed = ListedMessages(tuple(earlier), is_cut=False, how="follow")
        await outcome(await self._service.submit(Request(key=key(), input=last), listed=listed))
        _, record, _ = self._target.built[-1]
        had = [text for text in texts(record.messages) if text.startswith(SAID)]
        assert had == earlier


@settings(max_examples=200)
@given(STEPS)
@example([("send", A), ("send", A), ("edit", 0, A), ("send", A), ("show", 1), ("send", B)])
@example([("send", A), ("another way", B), ("send", A), ("regenerate",), ("edit", 1, A)])
def test_the_agent_has_in_mind_what_the_program_shows(steps: list[tuple[Any, ...]]) -> None:
    async def main(clock: VirtualClock) -> None:
        target = Played(echo)
        async with serving(clock, target, max_agents=0) as service:  # (so each run builds its agent)
            chat = Chat(service, target)
            for step in steps:
                await chat.play(step)

    run_virtual(main)
