"""A client of an OpenAI-compatible server, as anybody would write it: asks each prompt and times the answer.

A program of its own, run with the engine's Python: `python client_program.py BASE_URL MODEL < prompts.json`.
The key comes from OPENAI_API_KEY. MODEL is used where the server can't list its models, as `transformers
serve` can't without a hub. Prints one JSON object: the model's id, whether it was listed and, per prompt,
text, TTFT and duration.
"""

import json
import sys
import time

from openai import APIError, OpenAI


def main() -> None:
    client = OpenAI(base_url=sys.argv[1])
    prompts = json.load(sys.stdin)
    try:
        model, listed = client.models.list().data[0].id, True
    except (APIError, IndexError):
        model, listed = sys.argv[2], False
    calls = []
    for prompt in prompts:
        began = time.perf_counter()
        first_s, parts = None, []
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=64,
            stream=True,
        )
        for chunk in stream:
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                first_s = first_s if first_s is not None else time.perf_counter() - began
                parts.append(text)
        calls.append({"text": "".join(parts), "ttft_s": first_s, "duration_s": time.perf_counter() - began})
    sys.stdout.write(json.dumps({"model": model, "listed": listed, "calls": calls}) + "\n")


if __name__ == "__main__":
    main()
