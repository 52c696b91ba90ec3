"""litellm, and its router: `python ask_litellm.py BASE_URL` answers each line of JSON that it reads.

A request is `{session_id, text, form: "whole" | "stream", through}`, what came of it `{text}`, or `{status, error}`.
"""

import json
import os
import sys
from typing import Any

import litellm

where = {"model": "openai/any", "api_base": sys.argv[1], "api_key": "none"}
router = litellm.Router([{"model_name": "agent", "litellm_params": where}])


def ask(session_id: str, text: str, form: str, through: str) -> str:
    """Ask once, and return the answer."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}],
        "extra_headers": {"X-Session-Id": session_id},
        "stream": form == "stream",
    }
    answer = router.completion(model="agent", **body) if through else litellm.completion(**where, **body)
    if form == "stream":
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    return str(answer.choices[0].message.content)


for line in sys.stdin:
    said: dict[str, Any]
    try:
        said = {"text": ask(**json.loads(line))}
    except Exception as error:
        said = {"status": getattr(error, "status_code", None), "error": str(error)}
    print(json.dumps(said), flush=True)
os._exit(0)  # a stream that was broken off is closed too late, and noisily
