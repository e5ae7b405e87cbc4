"""A client's session that writes a transcript as the real one does: what its model was given stands there."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypervisor.core.project import Project
from hypervisor.hooks import handler
from hypervisor.store.sessions import MAIN


@dataclass(slots=True)
class TalkingClient:
    """A client's session: it asks the hooks, and writes down what it was told as the real one does."""

    project: Project
    transcript: Path
    session: str = "s-1"
    #: What the model was given.
    given: list[str] = field(default_factory=list)
    _prompts: int = 0

    def write(self, **entry: Any) -> None:
        with self.transcript.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def hook(self, event: str, agent: str = MAIN, **fields: Any) -> str:
        """Return what the hooks say at an event, for the model; it is not given to it yet."""
        self._prompts += event == "UserPromptSubmit"
        call = {
            "session_id": self.session, "transcript_path": str(self.transcript), "hook_event_name": event,
            "prompt_id": f"p{self._prompts}", **({} if agent == MAIN else {"agent_id": agent}), **fields,
        }  # fmt: skip
        out = io.StringIO()
        stdout, sys.stdout = sys.stdout, out
        try:
            environ = {"CLAUDE_PROJECT_DIR": str(self.project.root)}
            assert handler.main(io.BytesIO(json.dumps(call).encode()), environ) == 0
        finally:
            sys.stdout = stdout
        answer = json.loads(out.getvalue() or "{}")
        assert "systemMessage" not in answer, answer
        text = answer.get("reason") or answer.get("hookSpecificOutput", {}).get("additionalContext", "")
        return text[text.index("hypervisor: ") :] if "[notice " in text else ""

    def give(self, text: str, event: str) -> None:
        """Put what a hook has said before the model."""
        self.write(type="attachment", attachment={"type": "hook_success", "stdout": text, "hookEvent": event})
        if event == "Stop":
            self.write(type="user", isMeta=True, message={"role": "user", "content": f"feedback:\n{text}"})
        else:
            attachment = {"type": "hook_additional_context", "content": [text], "hookEvent": event}
            self.write(type="attachment", attachment=attachment)
        self.given.append(text)

    def speak(self) -> None:
        """Let the model say something."""
        self.write(
            type="assistant", message={"role": "assistant", "content": [{"type": "text", "text": "ok"}]}
        )

    def prompt(self, *, blocked: bool = False, text: str = "hello") -> str:
        """Submit a prompt, which another plugin may block; return what the hooks said."""
        said = self.hook("UserPromptSubmit", prompt=text)
        if blocked:
            self.write(type="system", subtype="informational", content="operation blocked by hook")
            return said
        self.write(type="user", message={"role": "user", "content": text})
        if said:
            self.give(said, "UserPromptSubmit")
        self.speak()
        return said

    def tool(self, *, lost: bool = False, use: str = "toolu_1", response: Any = "ok") -> str:
        """Run a tool of the session's own thread; return what the hooks said."""
        said = self.hook(
            "PostToolUse", tool_name="Bash", tool_input={}, tool_use_id=use, tool_response=response
        )
        result = {"type": "tool_result", "tool_use_id": use, "content": str(response)}
        self.write(type="user", message={"role": "user", "content": [result]})
        if said and not lost:
            self.give(said, "PostToolUse")
        self.speak()
        return said

    def stop(self, **fields: Any) -> str:
        """End the turn; return why the hooks do not let it."""
        said = self.hook("Stop", stop_hook_active=False, **fields)
        if said:
            self.give(said, "Stop")
            self.speak()
        return said
