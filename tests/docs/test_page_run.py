"""The reader of pages finds what is wrong on one, and nothing where all is as it is shown."""

from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from docs import pages
from docs.page_run import Page, PageRun, steps

RIGHT: Final = """
```python
# seven.py
print("a seven:", 7)
```

```text
a seven: ...
```

```sh
echo '{"a": 1, "took_s": 2, "id": "x-17"}'
```

Some prose.

```json
{"a": 1, "took_s": 3, "id": "x-..."}
```

- in a list

  ```console
  $ echo one; echo two >&2; echo three
  one
  ...
  three
  $ true
  $ echo "a port:   4711" && false
  a port: 8080
  ```

```sh
cat seven.py
```
"""


def read(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, page: Page | None = None) -> list[int]:
    """Do what a page says; return the lines of the blocks that are left out."""
    folder.mkdir()
    (folder / "page.md").write_text(text)
    monkeypatch.setattr(pages, "DOCS", folder)
    page = page or Page(served={})
    done, unknown = steps("page.md", page)
    with ExitStack() as stack:
        run = PageRun(page, folder, stack)
        for step in done:
            run.execute(step)
    return [each.line for each in unknown]


def test_a_true_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(RIGHT, tmp_path / "page", monkeypatch) == []


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("a seven: ...", "an eight: ...", 2),
        ('"a": 1, "took_s": 3', '"a": 2, "took_s": 3', 11),
        ('"a": 1, "took_s": 3', '"took_s": 3', 11),
        ('"x-..."}\n', '"y-..."}\n', 11),
        ("  three\n", "  three\n  four\n", 23),
        ("$ true\n", "$ true\n  something\n", 23),
        ("a port: 8080", "a port: one", 23),
        ("  $ echo one", "  echo one", 23),
        ("cat seven.py", "cat eight.py", 33),
        ("cat seven.py", "true", 33),
        ("cat seven.py", "true\nstrandline serve agent.py", 33),
    ],
)
def test_what_is_wrong_is_found_at_its_place(
    right: str, wrong: str, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RIGHT.count(right) == 1
    with pytest.raises(AssertionError, match=rf"page\.md:{place}\b"):
        read(RIGHT.replace(right, wrong), tmp_path / "page", monkeypatch)


@pytest.mark.parametrize(
    "block", ["```rust\nfn main() {}\n```\n", "```\nx\n```\n", "```json\n1\n```\n", "```python\n1\n```\n"]
)
def test_a_block_that_nobody_knows_how_to_test_is_found(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f"# Page\n{block}"
    given = {"by": Page(served={}, by={"test_x": [block[:5]]}), "drawn": Page(served={}, drawn=[block[:5]])}
    assert read(page, tmp_path / "none", monkeypatch) == [2]
    assert [read(page, tmp_path / how, monkeypatch, entry) for how, entry in given.items()] == [[], []]


def test_a_server_that_answers_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "```python\n# agent.py\nasync def answer(message, session):\n    return f'You: {message}'\n```\n"
    page += "```sh\nstrandline serve agent.py:answer\n```\n"
    assert read(page, tmp_path / "right", monkeypatch, Page(served={}, asks=[("agent.py", "hi", "You: hi")])) == []
    with pytest.raises(AssertionError, match=r"page\.md:6: say"):
        read(page, tmp_path / "untold", monkeypatch, Page(served={}, asks=[("other.py", "hi", "You: hi")]))
    with pytest.raises(AssertionError, match=r"page\.md:6: hi\nanswered:\nYou: hi"):
        read(page, tmp_path / "wrong", monkeypatch, Page(served={}, asks=[("", "hi", "I: hi")]))
