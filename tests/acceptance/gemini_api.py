"""The Gemini API beside the Messages API, on one port and with the same scripts.

A request for content is read as the turn that `Turn` knows, so that a scenario is written once, whichever
client walks it:

    with GeminiApi() as api:
        api.main(calls(gemini_tool("claim_next_task", caller="gemini")), say("QUEUE EMPTY"), when="Claim")

What the client says as contents and parts becomes messages and blocks, and the scripted reply goes back as
a stream of candidates. A conversation is told by the key that the client was given and by its first
message: this API's requests name no session.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from acceptance.api import Handler, ScriptedApi
from acceptance.replies import INPUT_TOKENS, OUTPUT_TOKENS, Failure, Message, Reply, Use, use

#: What the client calls our tools.
GEMINI_PREFIX = "mcp_task-manager_"
_CONTENT = re.compile(r"/v1beta/models/([^/:]+):(generateContent|streamGenerateContent)")
_WRAPPED = re.compile(r"<untrusted_context>\n?(.*?)\n?</untrusted_context>", re.DOTALL)


def gemini_tool(name: str, /, **arguments: Any) -> Use:
    """Name one call of a tool of ours as Gemini names it, for `calls`."""
    return use(GEMINI_PREFIX + name, **arguments)


class Stream(Message):
    """A stream of the API with candidates as a test wants them: none, cut short, malformed."""

    __slots__ = ("candidates",)
    candidates: tuple[Mapping[str, Any], ...]

    def __init__(self, *candidates: Mapping[str, Any]) -> None:
        super().__init__()
        object.__setattr__(self, "candidates", candidates)


class GeminiHandler(Handler):
    """Answers for both APIs."""

    def do_POST(self) -> None:  # noqa: N802 - the name that the server calls
        """Answer what is Gemini's; all else is the other API's."""
        found = _CONTENT.fullmatch(self.path.partition("?")[0])
        if found is None:
            super().do_POST()
            return
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        assert isinstance(self.api, GeminiApi)
        self.api.bodies.append(body)
        request = as_messages(body, found[1], stream=found[2].startswith("stream"))
        # The same prompt twice is two conversations: each run has a key of its own, or another prompt.
        key = self.headers.get("x-goog-api-key", "")
        session = f"{key} {request['messages'][0]['content'] if request['messages'] else ''}"
        self._reply(self.api.answer(session, "", request), {**request, "gemini": True})

    def _reply(self, reply: Reply, request: dict[str, Any], key: tuple[str, str, int] | None = None) -> None:
        if isinstance(reply, Failure) and request.get("gemini"):
            error = {"code": reply.status, "message": reply.message, "status": reply.kind}
            self._send(reply.status, json.dumps({"error": error}).encode())
        else:
            super()._reply(reply, request, key)

    def _message(self, message: Message, request: dict[str, Any]) -> None:
        if not request.get("gemini"):
            super()._message(message, request)
            return
        candidates = message.candidates if isinstance(message, Stream) else (candidate_of(message),)
        answers = [{**USAGE, "candidates": [one], "modelVersion": request["model"]} for one in candidates]
        if request["stream"]:
            body = "".join(f"data: {json.dumps(one)}\r\n\r\n" for one in answers).encode()
            self._send(200, body, kind="text/event-stream")
        else:
            self._send(200, json.dumps(answers[0] if answers else USAGE).encode())
        self.api.serve()


USAGE = {
    "usageMetadata": {
        "promptTokenCount": INPUT_TOKENS,
        "candidatesTokenCount": OUTPUT_TOKENS,
        "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
    }
}


class GeminiApi(ScriptedApi):
    """Both APIs; a conversation is scripted by its prompt, whichever client leads it."""

    handler = GeminiHandler

    def answer(self, session: str, agent: str, request: dict[str, Any]) -> Reply:
        """Say what comes next; what the client asks for itself (which model to take), as it wants it."""
        if request.get("schema") and not request.get("tools"):
            self.side_calls.append(request)
            return Message(json.dumps(_of(request["schema"])))
        return super().answer(session, agent, request)

    def __init__(self) -> None:
        super().__init__()
        #: Every request for content, as the client sent it.
        self.bodies: list[dict[str, Any]] = []


def candidate_of(message: Message, finish: str = "STOP") -> dict[str, Any]:
    """Return what a model says as the API spells it."""
    parts: list[dict[str, Any]] = [{"text": message.text}] if message.text or not message.uses else []
    parts += [{"functionCall": {"name": one.name, "args": dict(one.arguments)}} for one in message.uses]
    return {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}


def as_messages(body: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
    """Return a request for content as the request for a message that says the same."""
    messages: list[dict[str, Any]] = []
    open_ids: dict[str, list[str]] = {}
    for content in body.get("contents", []):
        blocks = list(_blocks(content.get("parts", []), open_ids))
        role = "assistant" if content.get("role") == "model" else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    tools = [
        {"name": one["name"], "input_schema": one.get("parametersJsonSchema") or one.get("parameters")}
        for group in body.get("tools", [])
        for one in group.get("functionDeclarations", [])
    ]
    system = "\n".join(part.get("text", "") for part in body.get("systemInstruction", {}).get("parts", []))
    wanted = body.get("generationConfig", {})
    schema = wanted.get("responseJsonSchema") or wanted.get("responseSchema")
    return {
        "messages": messages, "tools": tools, "system": system, "model": model, "stream": stream,
        "schema": schema,
    }  # fmt: skip


def _of(schema: Mapping[str, Any]) -> Any:
    """Return something that fits a JSON schema."""
    kind = str(schema.get("type", "string")).lower()
    if kind == "object":
        return {name: _of(one) for name, one in schema.get("properties", {}).items()}
    plain: dict[str, Any] = {"array": [], "boolean": False, "number": 0, "integer": 0}
    return plain.get(kind, next(iter(schema.get("enum", ())), "text"))


def _blocks(parts: Iterable[Mapping[str, Any]], open_ids: dict[str, list[str]]) -> Iterable[dict[str, Any]]:
    for part in parts:
        if "functionCall" in part:
            call = part["functionCall"]
            name = call.get("id") or uuid.uuid4().hex
            open_ids.setdefault(call["name"], []).append(name)
            yield {"type": "tool_use", "id": name, "name": call["name"], "input": call.get("args", {})}
        elif "functionResponse" in part:
            answer = part["functionResponse"]
            waiting = open_ids.get(answer["name"], [])
            name = answer.get("id") or (waiting.pop(0) if waiting else "")
            said = answer.get("response", {})
            failed = "error" in said
            text = str(said.get("error") if failed else said.get("output", json.dumps(said)))
            wrapped = _WRAPPED.search(text)
            yield {
                "type": "tool_result", "tool_use_id": name, "is_error": failed,
                "content": [{"type": "text", "text": wrapped[1] if wrapped else text}],
            }  # fmt: skip
        elif "text" in part:
            yield {"type": "text", "text": part["text"]}
