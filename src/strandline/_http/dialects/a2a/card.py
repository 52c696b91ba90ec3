"""The agent card: one document for clients of both versions, which both SDKs read. Pure.

1.0 reads `supportedInterfaces`, `securityRequirements` and `capabilities.extendedAgentCard`; 0.3 reads `url`,
`preferredTransport`, `security` and `supportsAuthenticatedExtendedCard`.
"""

import re
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request

from strandline._files.kinds import SHOWN_AS
from strandline._http import wire
from strandline._settings import AppSettings

PLACE: Final = "/a2a"
EXTENSION: Final = "urn:strandline:limits"
"""The extension by which the extended card says what the server accepts."""
_KEY: Final = "key"
_NOT_IN_ID: Final = re.compile(r"[^a-z0-9]+")


class Interface(Struct, frozen=True, rename="camel"):
    """An address at which a version is spoken."""

    url: str
    protocol_binding: str
    protocol_version: str


class Extension(Struct, frozen=True, kw_only=True):
    """What the agent offers beyond the protocol."""

    uri: str
    description: str
    required: bool = False
    params: dict[str, Any]


class Capabilities(Struct, frozen=True, rename="camel", kw_only=True):
    """What the agent can do of what is optional."""

    streaming: bool
    push_notifications: bool
    extended_agent_card: bool
    extensions: list[Extension] | UnsetType = UNSET


class Skill(Struct, frozen=True):
    """Something that the agent can do."""

    id: str
    name: str
    description: str
    tags: list[str]


class AgentCard(Struct, frozen=True, rename="camel", kw_only=True):
    """What the agent is, where it is, and how it is spoken to."""

    name: str
    description: str
    version: str
    url: str
    preferred_transport: str = "JSONRPC"
    protocol_version: str = "0.3.0"
    supported_interfaces: list[Interface]
    capabilities: Capabilities
    supports_authenticated_extended_card: bool
    default_input_modes: list[str]
    default_output_modes: list[str]
    skills: list[Skill]
    security_schemes: dict[str, dict[str, Any]] | UnsetType = UNSET
    security: list[dict[str, list[str]]] | UnsetType = UNSET
    security_requirements: list[dict[str, Any]] | UnsetType = UNSET


def address(request: Request, settings: AppSettings) -> str:
    """Return the URL of the agent for a client: the setting's, or that of its request."""
    base = settings.public_url
    if base is None:
        return f"{request.url.scheme}://{request.headers.get('host', '')}{wire.client_path(request.scope, PLACE)}"
    return f"{base.rstrip('/')}{PLACE}"


def card_of(url: str, settings: AppSettings, content: frozenset[str], *, keys: bool, version: str) -> AgentCard:
    """Return the card; `content`: the blocks that callers may send, `version`: that of the server."""
    name, description = settings.agent_id, settings.agent_description
    files = [kind for kind, (block, _) in SHOWN_AS.items() if block in content]
    skills = settings.agent_skills or [f"{name}: {description}"]
    scheme = {"type": "http", "scheme": "bearer", "httpAuthSecurityScheme": {"scheme": "bearer"}}
    return AgentCard(
        name=name,
        description=description,
        version=version,
        url=url,
        supported_interfaces=[Interface(url, "JSONRPC", number) for number in ("1.0", "0.3")],
        capabilities=Capabilities(streaming=True, push_notifications=False, extended_agent_card=keys),
        supports_authenticated_extended_card=keys,
        default_input_modes=list(dict.fromkeys(("text/plain", "application/json", *files))),
        default_output_modes=["text/plain"],
        skills=[_skill(each) for each in skills],
        security_schemes={_KEY: scheme} if keys else UNSET,
        security=[{_KEY: []}] if keys else UNSET,
        security_requirements=[{"schemes": {_KEY: {"list": []}}}] if keys else UNSET,
    )


def extended(card: AgentCard, limits: dict[str, Any]) -> AgentCard:
    """Return the card for callers with a key, which says what the server accepts."""
    extension = Extension(uri=EXTENSION, description="What this server accepts", params=limits)
    return replace(card, capabilities=replace(card.capabilities, extensions=[extension]))


def _skill(said: str) -> Skill:
    """Return a skill, written as its name, a colon, and what it is."""
    name, _, description = (each.strip() for each in said.partition(":"))
    skill_id = _NOT_IN_ID.sub("-", name.lower()).strip("-") or "skill"
    return Skill(skill_id, name, description or name, [skill_id])
