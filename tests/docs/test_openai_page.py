"""`docs/openai.md`: what it names."""

from docs.pages import text
from strandline._http.dialects.openai.wire import CompletionBody


def test_it_names_every_field_of_a_request() -> None:
    page, fields = text("openai.md"), {*CompletionBody.__struct_fields__} - {"responses"}
    assert {
        name for name in fields if f"`{name}" not in page and f"{name}=" not in page and f'"{name}"' not in page
    } == set()
