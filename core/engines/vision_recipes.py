"""The recipes of lanes that take pictures: the same question about a picture of one's own. Texts only."""

PROMPT = "What is in the picture?"
PICTURE = "picture.png"


def curl(url: str, fields: str, header: str) -> str:
    """A request with the picture as a data URL; `fields` is the rest of the JSON object."""
    content = (
        '[{"type": "image_url", "image_url": {"url": "data:image/png;base64,%s"}}, '
        f'{{"type": "text", "text": "{PROMPT}"}}]'
    )
    body = f'{{"messages": [{{"role": "user", "content": {content}}}], {fields}}}'
    return (
        f"printf '{body}' \\\n  \"$(base64 < {PICTURE} | tr -d '\\n')\" |\n"
        f"  curl --silent {url}/chat/completions -H 'Content-Type: application/json'{header} -d @-"
    )


def openai_question() -> str:
    """The lines of a Python program that make `question`, the content of its message."""
    return f'''picture = base64.b64encode(Path("{PICTURE}").read_bytes()).decode()
question = [
    {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{picture}}"}}}},
    {{"type": "text", "text": "{PROMPT}"}},
]
'''


def transformers_program(checkpoint: str, extra: str, dtype: str, device: str, generate: str) -> str:
    """`extra` and `generate` are further arguments, of loading and of generating."""
    return f"""import time

from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained({checkpoint!r}{extra})
model = AutoModelForImageTextToText.from_pretrained({checkpoint!r}, dtype={dtype!r}{extra}).to({device!r})
question = [{{"type": "image", "path": "{PICTURE}"}}, {{"type": "text", "text": "{PROMPT}"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": question}}],
    add_generation_prompt=True,
    tokenize=True,
    return_tensors="pt",
    return_dict=True,
).to(model.device, dtype=model.dtype)
model.generate(**inputs, max_new_tokens=8)
sent = time.perf_counter()
output = model.generate(**inputs, {generate})
elapsed = time.perf_counter() - sent
answer = output[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
print(f"{{len(answer)}} tokens in {{elapsed:.3f}} s, {{len(answer) / elapsed:.1f}} tok/s end to end")
"""
