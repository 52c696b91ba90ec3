"""Models by name: `load_model("openai:gpt-4o-mini")`, so that one line of an agent's file says which model answers.

It knows four providers, imports one when it is asked for, and says what is missing in one paragraph: the name, the
package, or the credentials. It asks nothing over a network; what else a model can be given (a temperature, a region)
is given to the provider's own class of Strands.
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
"""For each provider, a model of it as it is written."""
PACKAGES: Final = {"openai": "openai", "bedrock": "boto3", "ollama": "ollama"}
"""For each provider, the module that its client comes in."""
_EC2: Final = Path("/sys/class/dmi/id/sys_vendor")
_ELSEWHERE: Final = ("iam-role", "container-role")
"""Where boto3 asks over a network."""


def load_model(spec: str) -> "Model":
    """Return the Strands model that `spec` names: `openai:NAME`, `bedrock:NAME`, `ollama:NAME` or `scripted`.

    `openai` reads OPENAI_API_KEY and OPENAI_BASE_URL, `bedrock` whatever boto3 finds, `ollama` OLLAMA_HOST.
    `scripted` needs nothing: it repeats, counts and calls the tools that are named to it.

    Raises `ModelError`, saying what to change, if the name, a package or credentials are missing.
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
            # Its client reads OPENAI_BASE_URL. A server of one's own may want no key, but the client does.
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
        raise ModelError(f"{spec!r} names no provider that is known here{hint}. Write a model as one of {known}.")
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
    """Return whether the package of a provider is there, without importing it."""
    return provider not in PACKAGES or find_spec(PACKAGES[provider]) is not None


def to_install(provider: str) -> str:
    """Return the command that brings the package of a provider."""
    return f"pip install 'strands-agents[{provider}]'"


def lacks(provider: str) -> str | None:
    """Say which credentials are missing and where they would be looked for; None if there are some, or none needed.

    Asks nothing over a network, so it cannot return whether they are right.
    """
    if provider == "openai" and not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        return (
            "there is no key. Set OPENAI_API_KEY; for a server of your own that speaks OpenAI's protocol, set"
            " OPENAI_BASE_URL to its address, which ends in /v1 mostly."
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
    """Return whether boto3 would find credentials, or could be given some by what this runs on."""
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
    """Return whether boto3 finds credentials on this machine, in any of the places that it looks at."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        places = Session().get_component("credential_provider").providers
    except BotoCoreError:  # a profile is named that does not exist
        return False
    for place in places:
        try:
            if place.METHOD not in _ELSEWHERE and place.load() is not None:
                return True
        except BotoCoreError:
            continue
    return False
