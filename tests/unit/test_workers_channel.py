"""Frames between the serving process and a worker, in any pieces and from any thread."""

import asyncio
import socket
import threading
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from strandline._encoding import encode_messages
from strandline._workers.channel import Channel, Frames, Writer, frame

MESSAGES = st.lists(st.lists(st.text(max_size=20), max_size=3), max_size=6)


@given(MESSAGES, st.data())
def test_frames_come_whole_and_in_order_however_the_bytes_are_cut(
    messages: list[list[str]], data: st.DataObject
) -> None:
    whole = b"".join(frame(*map(encode_messages, each)) for each in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    frames, heard = Frames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        heard += [msgspec.json.decode(each) for each in frames.feed(whole[begin:end])]
    assert heard == messages


def test_a_frame_that_came_with_another_before_anybody_listened_is_not_lost() -> None:
    """The reader of the first of two frames leaves the other one to the next reader."""
    frames = Frames()
    first = next(iter(frames.feed(frame(b'"one"') + frame(b'"two"'))))
    assert msgspec.json.decode(first) == ["one"]
    heard: list[Any] = []

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(heard.append, lambda: None, msgspec.json.decode, frames)
            await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
            await asyncio.sleep(0)
            assert heard == ["two"]
            channel.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_what_threads_write_to_somebody_slow_comes_whole_and_each_in_its_order() -> None:
    threads, each = 4, 200

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writer = Writer(ours)

        def write(name: int) -> None:
            for number in range(each):
                writer.write(frame(encode_messages([name, number, "x" * 1000])))

        writing = [threading.Thread(target=write, args=(name,)) for name in range(threads)]
        for thread in writing:
            thread.start()
        for thread in writing:
            thread.join(20)  # nobody reads yet: a write that waited would be stuck here
            assert not thread.is_alive()
        heard: dict[int, list[int]] = {name: [] for name in range(threads)}
        done = asyncio.Event()

        def receive(message: list[Any]) -> None:
            name, number, _ = message
            heard[name].append(number)
            if sum(map(len, heard.values())) == threads * each:
                done.set()

        channel = Channel(receive, lambda: None, msgspec.json.decode)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=theirs)
        await asyncio.wait_for(done.wait(), 20)
        assert heard == {name: list(range(each)) for name in range(threads)}
        channel.close()
        writer.close()
        ours.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_writing_to_nobody_is_in_vain_and_harmless() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        writer = Writer(ours)
        theirs.close()
        writer.write(b"x" * 100)
        writer.write(b"y" * 100)
        writer.close()
        ours.close()

    asyncio.run(main())
