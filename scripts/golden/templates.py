#!/usr/bin/env python3
"""Renders chat templates with jinja2 as transformers does, for crates/model/tests/template.rs.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install jinja2==3.1.6
    /tmp/venv/bin/python scripts/golden/templates.py            # the templates of the tests
    /tmp/venv/bin/python scripts/golden/templates.py DIR OUT    # any folder of .jinja files

The environment is set up as in transformers 5.23.0, utils/chat_template_utils.py: sandboxed,
blocks trimmed, loop controls, `tojson` as json.dumps without HTML escapes, generation tags as
calls of their body. The clock stands still, so that `strftime_now` repeats.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

DATA = pathlib.Path(__file__).parents[2] / "crates/model/tests/data/template"
NOW = datetime.datetime(2024, 7, 26, 9, 5, 1)

CHATML = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
MISTRAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
DEEPSEEK = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}

# name: (source, licence, special tokens, extra variables)
TEMPLATES = {
    "chatml": ("the usual ChatML loop", "trivial", CHATML, {}),
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0", CHATML, {}),
    "qwen2_5": ("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", QWEN, {}),
    "qwen2_5_training": ("huggingface/trl f2cd5771, after Qwen2.5", "Apache-2.0", QWEN, {}),
    "qwen3": ("Qwen/Qwen3-8B", "Apache-2.0", QWEN, {}),
    "qwen3_nothink": ("Qwen/Qwen3-8B", "Apache-2.0", QWEN, {"enable_thinking": False}),
    "mistral_v0_1": ("mistralai/Mistral-7B-Instruct-v0.1", "Apache-2.0", MISTRAL, {}),
    "mistral_nemo": ("mistralai/Mistral-Nemo-Instruct-2407", "Apache-2.0", MISTRAL, {}),
    "zephyr": ("HuggingFaceH4/zephyr-7b-beta", "MIT", MISTRAL, {}),
    "phi3": ("microsoft/Phi-3-mini-4k-instruct", "MIT",
             {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, {}),
    "deepseek_r1_distill": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "MIT", DEEPSEEK, {}),
    "llama3_like": ("ours, in the manner of Llama 3.1", "ours",
                    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, {}),
    "gemma_like": ("ours, in the manner of Gemma", "ours",
                   {"bos_token": "<bos>", "eos_token": "<eos>"}, {}),
    "features": ("ours, one of everything", "ours", MISTRAL,
                 {"style": "plain", "depth": 2, "flags": {"b": [1, 2.5, None], "a": "é<&>'\""}}),
}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CONVERSATIONS = {
    "user": [user("Hello.")],
    "user_zh": [user("你好，今晚的海面怎么样？")],
    "system_user": [system("You are Mara, keeper of a lighthouse."), user("Who are you?")],
    "roleplay": [
        system("You are Mara, keeper of a lighthouse.\n\nStay in character."),
        user("*knocks* Anyone there?"),
        assistant("*opens the door a crack*\n\n\"Storm's coming. What do you want?\""),
        user("Shelter.  Please."),
        assistant("  Come in, then.  "),
        user("Thank you!"),
    ],
    "roleplay_zh": [
        system("你是灯塔看守人玛拉。请保持角色。"),
        user("（敲门）有人吗？"),
        assistant("“暴风雨要来了。你想要什么？”🌧️"),
        user("避雨。"),
    ],
    "ends_with_assistant": [user("One."), assistant("Two."), user("Three."), assistant("Four.")],
    "assistant_first": [assistant("*waves* Oh, a visitor!"), user("Hi."), assistant("Tea?")],
    "system_assistant_first": [system("Be Mara."), assistant("Oh!"), user("Hi.")],
    "two_users": [user("One."), user("Two."), assistant("Three.")],
    "two_assistants": [user("One."), assistant("Two."), assistant("Three."), user("Four.")],
    "late_system": [user("One."), assistant("Two."), system("Night falls."), user("Three.")],
    "two_systems": [system("First."), system("Second."), user("Go.")],
    "system_only": [system("Only this.")],
    "empty_content": [system(""), user(""), assistant(""), user("x")],
    "empty": [],
    "odd_text": [
        user("a \"quoted\" 'text' \\ back\tslash\r\n{{ not a tag }} {% nor this %} <b>&amp;</b>"),
        assistant("🌧️👩‍👩‍👧‍👦 é e\u0301 \u0000 \u2028 </s> <|im_end|>"),
        user("\n\n  padded \u00a0\u001c\n"),
    ],
    "thinking": [
        user("2+2?"),
        assistant("<think>\nAdd them.\n</think>\n\n4"),
        user("And 3+3?"),
        assistant("<think>\nAgain.\n</think>\n\n6"),
    ],
    "named": [dict(user("Hi."), name="Ann"), dict(assistant("Hello, Ann."), name="Mara")],
    "tool": [user("Look."), assistant("Looking."), {"role": "tool", "content": "A ship."},
             assistant("I see a ship.")],
}


class Generation(jinja2.ext.Extension):
    """Transformers' `{% generation %}`: its body is called like a macro and printed."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(jinja2.TemplateError):
    pass


def compiled(source):
    def raise_exception(message):
        raise Raised(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    return environment.from_string(source)


def rendered(template, variables, messages, generate):
    try:
        text = template.render(messages=messages, tools=None, documents=None,
                               add_generation_prompt=generate, **variables)
        return {"text": text}
    except Raised as error:
        return {"raised": str(error)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def write(path, source, provenance, tokens, variables):
    template = compiled(source)
    cases = []
    for name, messages in CONVERSATIONS.items():
        for generate in (False, True):
            result = rendered(template, {**tokens, **variables}, messages, generate)
            case = {"name": name, "messages": messages, "add_generation_prompt": generate}
            cases.append({**case, **result})
    whole = {**provenance, "jinja2": jinja2.__version__, "now": NOW.isoformat(),
             "special_tokens": tokens, "variables": variables, "cases": cases}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=True) + "\n")


def main():
    if len(sys.argv) == 3:
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
            out = pathlib.Path(sys.argv[2])
            source = path.read_text()
            (out / path.name).write_text(source)
            try:
                write(out / f"{path.stem}.json", source, {"file": path.name}, MISTRAL, {})
            except jinja2.TemplateError as error:
                print(f"{path.name}: {error}")
        return
    for name, (source, licence, tokens, variables) in TEMPLATES.items():
        file = {"qwen3_nothink": "qwen3"}.get(name, name) + ".jinja"
        provenance = {"file": file, "source": source, "licence": licence}
        write(DATA / f"{name}.json", (DATA / file).read_text(), provenance, tokens, variables)


if __name__ == "__main__":
    main()
