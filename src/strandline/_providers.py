"""Models by name: `load_model("openai:gpt-4o-mini")`.

Supports four providers, imports a provider when it is used, and says in one paragraph what is missing: the name, the
package or the credentials. Makes no network requests. For other options of a model (temperature, region), use the
provider's class of Strands instead.
"""

import difflib
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from strandline.errors import ModelError

if TYPE_CHECKING:
    from strands.models.model import Model

EXAMPLES: Final = {
    "openai": "openai:gpt-4o-mini",
    "bedrock": "bedrock:us.amazon.nova-lite-v1:0",
    "ollama": "ollama:llama3.2",
    "scripted": "scripted",
}
"""For each provider, an example of a model."""
PACKAGES: Final = {"openai": "openai", "bedrock": "boto3", "ollama": "ollama"}
"""For each provider, the module of its client."""
_EC2: Final = Path("/sys/class/dmi/id/sys_vendor")
_ELSEWHERE: Final = ("iam-role", "container-role")
"""Credential sources of boto3 that use a network."""


def load_model(spec: str) -> "Model":
    """Return the Strands model that `spec` names: `openai:NAME`, `bedrock:NAME`, `ollama:NAME` or `scripted`.

    `openai` reads OPENAI_API_KEY and OPENAI_BASE_URL, `bedrock` the credentials of boto3, `ollama` OLLAMA_HOST.
    `scripted` needs nothing: it repeats messages, counts them, and calls the tools that they name.

    Raises `ModelError`, with what to change, if the name, a package or credentials are missing.
    """
    provider, name = parse(spec)
    if provider == "scripted":
        from strandline._scripted.conversation import ConversationModel

        return ConversationModel()
    make = _class_of(provider)
    if (missing := lacks(provider)) is not None:
        raise ModelError(f"{spec} cannot be used: {missing}")
    match provider:
        case "openai":
            # Its client reads OPENAI_BASE_URL. A self-hosted server may need no key, but the client requires one.
            model: Model = make(client_args={"api_key": os.environ.get("OPENAI_API_KEY") or "none"}, model_id=name)
        case "bedrock":
            model = make(model_id=name)
        case _:
            model = make(os.environ.get("OLLAMA_HOST") or None, model_id=name)
    return model


def parse(spec: str) -> tuple[str, str]:
    """Return provider and name. Raises `ModelError` if one is unknown or missing; the scripted model has no name."""
    provider, colon, name = spec.strip().partition(":")
    if provider not in EXAMPLES:
        close = difflib.get_close_matches(provider.lower(), EXAMPLES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(f"`{example}`" for example in EXAMPLES.values())
        raise ModelError(f"{spec!r} names no known provider{hint}. Write a model as one of {known}.")
    if provider == "scripted":
        if colon:
            raise ModelError(f"{spec!r}: the scripted model has no name of its own. Write `scripted`.")
    elif not name.strip():
        raise ModelError(f"{spec!r} does not say which model. Write `{provider}:NAME`, such as `{EXAMPLES[provider]}`.")
    elif not name.isprintable() or set(name.strip()) & set(" \"'\\`"):
        raise ModelError(
            f"{spec!r}: no model's name has spaces, quotes or control characters in it. Write `{provider}:NAME`, such"
            f" as `{EXAMPLES[provider]}`."
        )
    return provider, name.strip()


def installed(provider: str) -> bool:
    """Return whether the package of a provider is installed, without importing it."""
    return provider not in PACKAGES or find_spec(PACKAGES[provider]) is not None


def to_install(provider: str) -> str:
    """Return the command that installs the package of a provider."""
    return f"pip install 'strands-agents[{provider}]'"


def lacks(provider: str) -> str | None:
    """Say which credentials are missing and where to put them; None if there are some, or none are needed.

    Makes no network requests, so it does not check whether they are valid.
    """
    if provider == "openai" and not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return (
            "there is no key. Set OPENAI_API_KEY; for your own server with OpenAI's protocol, set OPENAI_BASE_URL to"
            " its address, which mostly ends in /v1."
        )
    if provider == "bedrock" and not _aws_credentials():
        return (
            "boto3 finds no AWS credentials. It looks for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile that"
            " AWS_PROFILE names, ~/.aws (`aws configure` or `aws sso login` fill it) and the role of the container or"
            " machine; a Bedrock key goes into AWS_BEARER_TOKEN_BEDROCK."
        )
    return None


def _class_of(provider: str) -> Any:
    """Import a provider's model class. Raises `ModelError` if its package is not installed."""
    module, name = {
        "openai": ("strands.models.openai", "OpenAIModel"),
        "bedrock": ("strands.models.bedrock", "BedrockModel"),
        "ollama": ("strands.models.ollama", "OllamaModel"),
    }[provider]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != PACKAGES[provider]:
            raise
        raise ModelError(
            f"the package {PACKAGES[provider]!r}, which {provider} models need, is not installed. Install it where"
            f" strandline is installed: {to_install(provider)}"
        ) from None


def _aws_credentials() -> bool:
    """Return whether boto3 would find credentials, or could get some from its container or machine."""
    given = ("AWS_BEARER_TOKEN_BEDROCK", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if any(os.environ.get(name) for name in given):
        return True
    if _locally_found():
        return True
    try:
        return "Amazon EC2" in _EC2.read_text() and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"
    except OSError:
        return False


def _locally_found() -> bool:
    """Return whether boto3 finds credentials on this machine."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        sources = Session().get_component("credential_provider").providers
    except BotoCoreError:  # a named profile does not exist
        return False
    for source in sources:
        try:
            if source.METHOD not in _ELSEWHERE and source.load() is not None:
                return True
        except BotoCoreError:
            continue
    return False
