"""Describe a GGUF file to Ollama: its template in Ollama's language, our system turn, stop tokens.

    files_for(presets.find("qwen3_4b"), "mine-Q4_K_M.gguf")
    -> {"Modelfile": 'FROM ./mine-Q4_K_M.gguf\\nTEMPLATE ...', "template": ..., "system": ..., "params": ...}

Input: the preset. Output: the Modelfile for `ollama create`, and the three files that the Hub hands to
`ollama run hf.co/NAME`. Ollama does not read Jinja: without these files it guesses a similar template.
"""

import json
from typing import Any

from plantune_lite.plan import SYSTEM
from plantune_lite.student.presets import Preset

CONTEXT = 4096

# Like the Jinja templates in presets.py: the default system turn where a conversation has none, and a last assistant
# message is continued. Gemma's opening <bos> is not here, because Ollama adds it itself.
_CHATML = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if and (eq $i 0) (ne .Role "system") }}<|im_start|>system
__SYSTEM__<|im_end|>
{{ end }}<|im_start|>{{ __ROLE__ }}
__BEGUN__{{ .Content }}
{{- if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ if $last }}<|im_start|>__ME__
__OPENING__{{ end }}
{{- end }}
{{- end }}"""
_GEMMA = """{{- $system := __QUOTED__ }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if and (eq $i 0) (eq .Role "system") }}{{ $system = .Content }}
{{- else }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}
{{ if $system }}{{ $system }}

{{ end }}{{ $system = "" }}{{ .Content }}
{{- if not (and $last (eq .Role "assistant")) }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- end }}
{{- end }}
{{- end }}"""


def template(preset: Preset) -> str:
    """Build the chat template in Go's template language."""
    text, me, role = _GEMMA if preset.family == "gemma3_text" else _CHATML, "assistant", ".Role"
    if preset.family == "gemma4_text":
        me, role = "model", 'if eq .Role "assistant" }}model{{ else }}{{ .Role }}{{ end'
        text = text.replace("<|im_start|>", "<|turn>").replace("<|im_end|>", "<turn|>")
    begun = '{{ if and $last (eq .Role "assistant") }}' + preset.opening + "{{ end }}" if preset.opening else ""
    text = text.replace("__ME__", me).replace("{{ __ROLE__ }}", "{{ " + role + " }}")
    text = text.replace("__BEGUN__", begun).replace("__OPENING__", preset.opening)
    return text.replace("__QUOTED__", json.dumps(SYSTEM)).replace("__SYSTEM__", SYSTEM)


def files_for(preset: Preset, file: str) -> dict[str, str]:
    """Build the Modelfile, and the files that replace it on the Hub, by name."""
    # Greedy decoding, as in evaluation by default, to the end of the turn.
    chosen: dict[str, Any] = {"temperature": 0, "num_ctx": CONTEXT, "stop": [preset.turn_end, *preset.stops]}
    lines = [f"FROM ./{file}", f'TEMPLATE """{template(preset)}"""', f'SYSTEM """{SYSTEM}"""']
    lines += [f"PARAMETER {name} {chosen[name]}" for name in ("temperature", "num_ctx")]
    lines += [f'PARAMETER stop "{stop}"' for stop in chosen["stop"]]
    return {
        "Modelfile": "\n".join(lines) + "\n",
        "template": template(preset),
        "system": SYSTEM,
        "params": json.dumps(chosen, indent=1) + "\n",
    }
