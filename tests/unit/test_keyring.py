"""Lines of keys: which are understood, what is said of the others, and that every key is compared with every other."""

import hashlib
import hmac
import os
from pathlib import Path

import pytest

from strandline._access import keyring
from strandline._access.keyring import ApiKey, Keyring, Line, lines_of, new_key, parse
from strandline._access.source import Keys, keys_of
from strandline._config import check_exposure, shown, survey
from strandline._model import Principal
from strandline._settings import Settings
from strandline.errors import SettingsError

HEX = hashlib.sha256(b"secret").hexdigest()


def only(text: str) -> ApiKey:
    (key,) = parse([Line("here", text)])
    return key


def test_a_new_key_is_kept_as_its_hash_and_found_by_the_key_alone() -> None:
    key, kept = new_key("ada", operator=True)
    assert key.startswith("strandline_")
    assert len(key) > 50
    assert key not in kept.line()
    assert kept.line() == f"ada sha256:{hashlib.sha256(key.encode()).hexdigest()} operator"
    assert only(kept.line()) == kept
    ring = Keyring([kept])
    assert ring.find(key.encode()) == kept
    for wrong in (b"", key[:-1].encode(), f"{key} ".encode(), kept.digest, kept.digest.hex().encode(), b"\xff\x00"):
        assert ring.find(wrong) is None
    assert new_key("ada")[0] != new_key("ada")[0]


def test_a_file_of_keys_may_have_remarks_and_empty_lines_and_two_keys_of_one_name() -> None:
    text = f"# who may ask\n\n  ada sha256:{HEX}\r\n\tada   sha256:{HEX[::-1].upper()}\toperator  \n"
    first, second = parse(lines_of(text, "keys"))
    assert (first.principal, first.operator) == (second.principal, not second.operator) == (Principal("ada"), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strandline_THISISTHEKEY", "is not a key"),
        ("ada strandline_THISISTHEKEY", "is not a key"),
        ("ada", "is not a key"),
        (f"sha256:{HEX}", "is not a key"),
        ("ada sha256:THISISTHEKEY", "the hash of ada must be"),
        (f"ada sha256:{HEX}0", "the hash of ada must be"),
        (f"ada sha256:{HEX} admin-THISISTHEKEY", "only `operator` may follow"),
        (f"ada sha256:{HEX} operator operator", "only `operator` may follow"),
        (f"a/THISISTHEKEY sha256:{HEX}", "the name must be"),
        (f"{'a' * 65} sha256:{HEX}", "the name must be"),
        (f".. sha256:{HEX}", "the name must be"),
    ],
)
def test_a_wrong_line_is_reported_by_its_number_and_never_shown(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(lines_of(f"# first\neve sha256:{'0' * 64}\n{text}\n", "keys"))
    assert str(error.value).startswith("keys, line 3")
    assert message in str(error.value)
    assert "THISISTHEKEY" not in str(error.value)
    assert HEX not in str(error.value)


def test_a_key_of_two_names_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"keys, line 2: bob has the same key as keys, line 1"):
        parse(lines_of(f"ada sha256:{HEX}\nbob sha256:{HEX}", "keys"))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a,b", "x" * 65, "a\n", ".", ".."])
def test_a_name_that_no_line_can_have_gets_no_key(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be the name of a key"):
        new_key(name)


def test_all_keys_are_compared_in_constant_time_whichever_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_key(f"n{number}") for number in range(7)]
    ring = Keyring(kept for _, kept in made)
    compared: list[tuple[bytes, bytes]] = []

    def compare(kept: bytes, shown: bytes) -> bool:
        compared.append((kept, shown))
        return hmac.compare_digest(kept, shown)

    monkeypatch.setattr(keyring, "compare_digest", compare)
    for presented in (made[0][0], made[6][0], "strandline_wrong"):
        compared.clear()
        ring.find(presented.encode())
        assert [kept for kept, _ in compared] == [kept.digest for _, kept in made]
        assert {shown for _, shown in compared} == {hashlib.sha256(presented.encode()).digest()}


# -- settings ------------------------------------------------------------------------------------------


def test_keys_come_from_the_setting_and_the_file_together(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(new_key("bob")[1].line())
    settings = Settings(api_keys=[new_key("ada")[1].line()], api_keys_file=str(tmp_path / "keys"))
    assert [key.principal for key in Keys(settings).ring.keys] == ["ada", "bob"]
    assert keys_of(Settings()) is None
    with pytest.raises(SettingsError, match="api_keys, entry 2 is not a key") as error:
        keys_of(Settings(api_keys=[f"ada sha256:{HEX}", "THISISTHEKEY"]))
    assert "THISISTHEKEY" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n# nobody\n", b"\xff\xfe"])
def test_a_file_without_a_key_lets_no_server_start(content: bytes, tmp_path: Path) -> None:
    """It would let nobody in, which cannot be intended."""
    file = tmp_path / "keys"
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        keys_of(Settings(api_keys_file=str(file)))
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"has no key|not UTF-8 text"):
        keys_of(Settings(api_keys_file=str(file)))


def test_an_unreadable_file_is_reported_with_who_must_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SettingsError, match=rf"Permission denied. Let only the user .* read it \(uid {os.geteuid()}\)"):
        keys_of(Settings(api_keys_file=str(tmp_path / "keys")))


def test_a_server_with_keys_may_listen_anywhere_and_one_without_learns_of_them() -> None:
    check_exposure(Settings(host="0.0.0.0", api_keys_file="keys"))
    check_exposure(Settings(host="0.0.0.0", api_keys=["ada sha256:..."]))
    with pytest.raises(SettingsError, match="strandline keys new NAME"):
        check_exposure(Settings(host="0.0.0.0"))


def test_no_list_of_settings_shows_what_stands_in_the_place_of_keys(tmp_path: Path) -> None:
    found = survey({"STRANDLINE_API_KEYS": "THISISTHEKEY, another"}, folder=tmp_path)
    (message,) = [shown(each) for each in found.settings if each.name == "api_keys"]
    assert message.value == "2, not shown"
    (tmp_path / "strandline.toml").write_text("api_keys = {THISISTHEKEY = 1}\n")
    for named in (None, tmp_path / "strandline.toml"):
        found = survey({}, toml=named, folder=tmp_path)
        assert found.errors
        assert "THISISTHEKEY" not in repr(found.errors)
        assert "THISISTHEKEY" not in repr([shown(each) for each in found.settings])


def test_what_clients_show_is_no_setting_and_no_misspelt_one(tmp_path: Path) -> None:
    assert survey({"STRANDLINE_API_KEY": "x", "STRANDLINE_API_KEY_FILE": "y"}, folder=tmp_path).remarks == []
    assert survey({"STRANDLINE_API_KEYZ": "x"}, folder=tmp_path).remarks != []
