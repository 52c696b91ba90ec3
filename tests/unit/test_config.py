"""Settings: which source counts, what is said about a wrong value, and when a server must not start."""

from pathlib import Path
from typing import Any

import pytest

from strandline._config import check_exposure, descriptions, is_loopback, resolve, shown, survey
from strandline._settings import Settings
from strandline.errors import SettingsError


def test_flags_count_before_environment_before_file_before_default(tmp_path: Path) -> None:
    (tmp_path / "strandline.toml").write_text("port = 1\nmax_running = 2\nmax_queued = 3\n")
    environment = {"STRANDLINE_PORT": "4", "STRANDLINE_MAX_RUNNING": "5"}
    resolved = resolve({"port": "6", "max_queued": None}, environment, folder=tmp_path)
    settings = resolved.settings
    assert (settings.port, settings.max_running, settings.max_queued, settings.retry_after_s) == (6, 5, 3, 5.0)
    assert resolved.origins["port"] == "--port"
    assert resolved.origins["max_running"] == "STRANDLINE_MAX_RUNNING"
    assert resolved.origins["max_queued"].endswith("strandline.toml")
    assert resolved.origins["retry_after"] == "default"


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [("AGENT_ID", "agent_id", "mine"), ("PORT", "port", 9000), ("IDLE_TIMEOUT_MINUTES", "idle_timeout_minutes", 2.5)],
)
def test_the_original_runners_variables_are_honoured_after_our_own(
    variable: str, name: str, value: Any, tmp_path: Path
) -> None:
    assert getattr(resolve({}, {variable: str(value)}, folder=tmp_path).settings, name) == value
    own = resolve({}, {variable: str(value), f"STRANDLINE_{name.upper()}": "7"}, folder=tmp_path).settings
    assert str(getattr(own, name)) in ("7", "7.0")


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert resolve({}, {"STRANDLINE_PORT": "", "PORT": ""}, folder=tmp_path).settings.port == 8080


@pytest.mark.parametrize(("variable", "value"), [("API_KEYS", ""), ("API_KEYS", " , "), ("API_KEYS_FILE", "")])
def test_an_empty_key_variable_stops_the_start(variable: str, value: str, tmp_path: Path) -> None:
    """As `docker run --env STRANDLINE_API_KEYS="$KEYS"` without `KEYS`, in an image that allows to have none."""
    environment = {f"STRANDLINE_{variable}": value, "STRANDLINE_ALLOW_ANONYMOUS": "1"}
    with pytest.raises(SettingsError, match=f"STRANDLINE_{variable} is set but has no key"):
        resolve({}, environment, folder=tmp_path)
    assert resolve({"api_keys_file": "keys"}, environment, folder=tmp_path).settings.has_keys


def test_lists_and_truth_values_are_read_from_text(tmp_path: Path) -> None:
    environment = {"STRANDLINE_ALLOWED_HOSTS": "a.example, b.example", "STRANDLINE_ALLOW_ANONYMOUS": "1"}
    settings = resolve({}, environment, folder=tmp_path).settings
    assert settings.allowed_hosts == ["a.example", "b.example"]
    assert settings.allow_anonymous is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("own_port", "0"),
        ("own_port", "65536"),
        ("servers", "0"),
        ("servers", "65"),
        ("port", "http"),
        ("max_running", "0"),
        ("max_queued", "-1"),
        ("drain_grace", "-1"),
        ("after_crash", "retry"),
        ("allow_anonymous", "perhaps"),
        ("idle_timeout_minutes", "-1"),
        ("agent_id", ""),
        ("timeout", "0"),
        ("timeout", "nan"),
        ("timeout", "inf"),
        ("retry_after", "inf"),
        ("cancel_grace", "-0.1"),
        ("max_still_working", "0"),
        ("stall_action", "kill"),
        ("unknown_tool", "ask"),
        ("on_failure", "forget"),
        ("history", "both"),
        ("run_retention", "59"),
        ("disk_reserve_bytes", "-1"),
    ],
)
def test_a_wrong_value_is_reported_with_its_name_origin_and_meaning(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refusal:
        resolve({name: value}, {}, folder=tmp_path)
    assert name in str(refusal.value)
    assert f"--{name.replace('_', '-')}" in str(refusal.value)
    assert descriptions()[name] in str(refusal.value)


def test_a_wrong_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "strandline.toml"
    for text, said in (
        ("max_runing = 3", "did you mean `max_running`"),
        ("port =", "cannot be read"),
        ("x = 1", "not a setting"),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError, match=said):
            resolve({}, {}, folder=tmp_path)
    with pytest.raises(SettingsError, match="cannot be read"):
        resolve({}, {}, toml=tmp_path / "missing.toml")


def test_every_setting_has_a_meaning() -> None:
    assert list(descriptions()) == list(Settings.__struct_encode_fields__)
    assert all(descriptions().values())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("example.org", False),
    ],
)
def test_a_server_without_keys_listens_beyond_loopback_only_if_that_is_allowed(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(Settings(host=host, allow_anonymous=True))
    if loopback:
        check_exposure(Settings(host=host))
    else:
        with pytest.raises(SettingsError, match="STRANDLINE_ALLOW_ANONYMOUS=1"):
            check_exposure(Settings(host=host))


# -- which file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line"),
    [("api_keys", 'api_keys = ["ops sha256:0 operator"]'), ("api_keys_file", 'api_keys_file = "mine"')],
)
def test_keys_are_never_taken_from_a_file_of_settings_that_nobody_has_named(
    tmp_path: Path, name: str, line: str
) -> None:
    """A tool of the agent that writes into the working folder would make itself an operator at the next start."""
    file = tmp_path / "strandline.toml"
    file.write_text(f"{line}\nmax_running = 3\n")
    with pytest.raises(SettingsError, match=f"has `{name}`.*--config.*STRANDLINE_CONFIG") as error:
        resolve({}, {}, folder=tmp_path)
    assert f"STRANDLINE_{name.upper()}" in str(error.value)
    with pytest.raises(SettingsError, match=name):
        resolve({}, {f"STRANDLINE_{name.upper()}": "x"}, folder=tmp_path)
    remarks = survey({}, folder=tmp_path)
    assert name in remarks.errors[0]
    assert [each.origin for each in remarks.settings if each.name == name] == ["default"]
    for found in (
        resolve({}, {}, toml=file),
        resolve({}, {"STRANDLINE_CONFIG": str(file)}, folder=tmp_path),
    ):
        assert found.settings.has_keys
        assert found.origins[name] == str(file)
        assert found.settings.max_running == 3


def test_the_file_of_settings_is_the_one_that_is_named_by_flag_or_variable_or_that_of_the_folder(
    tmp_path: Path,
) -> None:
    for name, number in (("strandline", 1), ("variable", 2), ("flag", 3)):
        (tmp_path / f"{name}.toml").write_text(f"max_running = {number}\n")
    variable = {"STRANDLINE_CONFIG": str(tmp_path / "variable.toml")}
    assert resolve({}, {}, folder=tmp_path).settings.max_running == 1
    assert resolve({}, {"STRANDLINE_CONFIG": ""}, folder=tmp_path).settings.max_running == 1
    assert resolve({}, variable, folder=tmp_path).settings.max_running == 2
    assert resolve({}, variable, toml=tmp_path / "flag.toml", folder=tmp_path).settings.max_running == 3
    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read"):
        resolve({}, {"STRANDLINE_CONFIG": str(tmp_path / "missing.toml")}, folder=tmp_path)
    assert survey(variable, folder=tmp_path).remarks == [], "it is no misspelt setting"


def test_the_variable_none_reads_no_file_and_reports_an_existing_one(
    tmp_path: Path,
) -> None:
    none = {"STRANDLINE_CONFIG": "none"}
    assert resolve({}, none, folder=tmp_path).remarks == []
    file = tmp_path / "strandline.toml"
    file.write_text("no TOML, and read by nobody")
    found = resolve({}, none, folder=tmp_path)
    assert found.settings == Settings()
    (remark,) = found.remarks
    assert remark == survey(none, folder=tmp_path).remarks[0]
    assert f"{file} is not read" in remark
    file.write_text("max_running = 3")
    assert resolve({}, none, toml=file, folder=tmp_path).settings.max_running == 3
    assert resolve({}, none, toml=file, folder=tmp_path).remarks == []


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("STRANDLINE_TIMEOOT", "STRANDLINE_TIMEOUT"),
        ("STRANDLINE_MAXRUNNING", "STRANDLINE_MAX_RUNNING"),
        ("STRANDLINE_PORTS", "STRANDLINE_PORT"),
        ("STRANDLINE_SERVICE_HOSTS", None),
        ("STRANDLINE_MODEL", None),
        ("STRANDLINE_DEMO_KEY", None),
        ("STRANDLINE_VERSION", None),
    ],
)
def test_a_misspelt_variable_is_reported_with_the_likely_setting(
    variable: str, meant: str | None, tmp_path: Path
) -> None:
    remarks = [] if meant is None else [f"the variable {variable} is not a setting; did you mean `{meant}`?"]
    assert resolve({}, {variable: "x"}, folder=tmp_path).remarks == remarks
    assert survey({variable: "x"}, folder=tmp_path).remarks == remarks


@pytest.mark.parametrize("service", ["STRANDLINE", "STRANDLINE_AGENT", "STRANDLINE_SESSION"])
def test_service_variables_of_kubernetes_are_not_misspelt_settings(service: str, tmp_path: Path) -> None:
    """Source: Kubernetes, "Discovering services", which has the variables of Docker's links too."""
    url = "tcp://10.0.0.11:8000"
    links = {
        f"{service}_SERVICE_HOST": "10.0.0.11",
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP": "8000",
        f"{service}_PORT_8000_TCP": url,
        f"{service}_PORT_8000_TCP_PROTO": "tcp",
        f"{service}_PORT_8000_TCP_PORT": "8000",
        f"{service}_PORT_8000_TCP_ADDR": "10.0.0.11",
        f"{service}_PORT_53_UDP": "udp://10.0.0.11:53",
    }
    if service != "STRANDLINE":  # (else that is the port to listen on, and no number)
        links[f"{service}_PORT"] = url
    assert resolve({}, links, folder=tmp_path).remarks == []
    assert survey(links, folder=tmp_path).remarks == []


def test_with_keys_a_principal_may_have_half_of_all_holds_and_without_as_many_as_there_are() -> None:
    keys = {"api_keys_file": "keys"}
    for given, in_force in (
        ({}, None),
        (keys, 4),
        ({**keys, "max_still_working": 9}, 4),
        ({**keys, "max_still_working": 1}, 1),
        ({**keys, "max_still_working_per_caller": 7}, 7),
        ({"max_still_working_per_caller": 2}, 2),
    ):
        assert resolve(given, {}).settings.holds_per_principal == in_force, given


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://hooks.example/a", "https://hooks.example/a"),
        ("https://hooks.example/a?token=s3cret&b=/?s3cret", "https://hooks.example/a?***"),
        ("https://s3cret@hooks.example/a", "https://***@hooks.example/a"),
        ("https://ada:s3c/r@et@hooks.example/a?s3cret#s3cret", "https://***@hooks.example/a?***"),
    ],
)
def test_what_may_be_secret_in_the_servers_webhook_is_not_shown(url: str, said: str, tmp_path: Path) -> None:
    found = survey({"STRANDLINE_WEBHOOK": url}, folder=tmp_path)
    assert [shown(each).value for each in found.settings if each.name == "webhook"] == [said]
    (tmp_path / "strandline.toml").write_text(f'webhook = ["{url}"]\n')
    with pytest.raises(SettingsError, match="webhook is") as refused:
        resolve({}, {}, folder=tmp_path)
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_no_retries_of_webhooks_are_none_and_not_the_default(tmp_path: Path) -> None:
    """An empty variable is one that is not set; one comma is a list without entries."""
    default = [5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0]
    assert resolve({"webhook_retries": ","}, {}, folder=tmp_path).settings.webhook_retries == []
    for value, retries in ((",", []), ("", default), ("0", [0.0])):
        found = resolve({}, {"STRANDLINE_WEBHOOK_RETRIES": value}, folder=tmp_path)
        assert found.settings.webhook_retries == retries
    (tmp_path / "strandline.toml").write_text("webhook_retries = []\n")
    for environ, expected in (({}, []), ({"STRANDLINE_WEBHOOK_RETRIES": "1, 2"}, [1.0, 2.0])):
        assert resolve({}, environ, folder=tmp_path).settings.webhook_retries == expected
