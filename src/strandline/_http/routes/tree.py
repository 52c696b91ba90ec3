"""The branches of a session and its forks, to draw them."""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.caller import session_of
from strandline._model import ForkedFrom, RunId, SessionId


class BranchBody(Struct, frozen=True, kw_only=True):
    """A branch of a session's history. A run is null if it is deleted, and a time if its run is not this session's."""

    start: Annotated[int, Meta(description="The index of its first message, which names it")]
    messages: Annotated[int, Meta(description="How many messages it has of its own")]
    parent: Annotated[int | None, Meta(description="The branch that it continues; null for the first one")]
    after: Annotated[
        int | None, Meta(description="The index of the message that it continues after; null: from the beginning")
    ]
    after_run_id: Annotated[RunId | None, Meta(description="The run that left that message")]
    first_run_id: Annotated[RunId | None, Meta(description="The run that left its first message")]
    last_run_id: Annotated[RunId | None, Meta(description="The run that left its last message")]
    began_at: Annotated[datetime | None, Meta(description="When the first run started")]
    ended_at: Annotated[datetime | None, Meta(description="When the last run ended")]
    superseded: Annotated[bool, Meta(description="Whether all of its messages are superseded")]
    superseded_from: Annotated[
        int | None, Meta(description="The index from which on its messages are superseded; null if none is")
    ]


class ForkOfBody(Struct, frozen=True, kw_only=True):
    """A session that was forked from this one."""

    session_id: SessionId
    run_id: Annotated[RunId | None, Meta(description="The last run that was copied; null if that is deleted")]
    messages: Annotated[int, Meta(description="How many messages its history began with")]
    branch: Annotated[int, Meta(description="The branch that has the last of them here")]


class TreeBody(Struct, frozen=True, kw_only=True):
    """The branches of a session, in the order in which they began, and the sessions that were forked from it."""

    session_id: SessionId
    messages: int
    forked_from: Annotated[ForkedFrom | UnsetType, Meta(description="Only of a forked session")] = UNSET
    branches: Annotated[list[BranchBody], Meta(description="The last 100")]
    forks: Annotated[list[ForkOfBody], Meta(description="The last 100")]
    truncated: Annotated[bool, Meta(description="Whether there are more branches or forks")]


class Trees:
    """The route that shows a session's branches and forks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tree(self, request: Request) -> Response:
        """Return the branches of a session and its forks, without messages."""
        found = await self._service.tree(session_of(request, request.path_params["session_id"]))
        return wire.answer(
            TreeBody(
                session_id=found.key.session_id,
                messages=found.messages,
                forked_from=UNSET if found.forked_from is None else found.forked_from,
                branches=[
                    BranchBody(
                        start=each.start,
                        messages=each.messages,
                        parent=each.parent,
                        after=each.after,
                        after_run_id=each.after_run,
                        first_run_id=each.first_run,
                        last_run_id=each.last_run,
                        began_at=wire.timestamp(each.began_at),
                        ended_at=wire.timestamp(each.ended_at),
                        superseded=each.messages > 0 and each.superseded_from == each.start,
                        superseded_from=each.superseded_from,
                    )
                    for each in found.branches
                ],
                forks=[
                    ForkOfBody(
                        session_id=each.session_id, run_id=each.run_id, messages=each.messages, branch=each.branch
                    )
                    for each in found.forks
                ],
                truncated=not found.is_whole,
            )
        )
