"""LMDeploy's Python pipeline, as its documentation shows it: one engine configuration, each prompt cold and
warm.

A program of its own, run with the engine's Python: `python pipeline_program.py < request.json`. The request
holds `model`, `engine` (`turbomind` or `pytorch`), `config`, `prompts`, and optionally `image` with
`questions`. The last line that it prints is one JSON object: seconds to load, and per call the text and
seconds.
"""

import json
import sys
import time
from typing import Any


def main() -> None:
    import lmdeploy

    request = json.load(sys.stdin)
    classes = {"turbomind": lmdeploy.TurbomindEngineConfig, "pytorch": lmdeploy.PytorchEngineConfig}
    config = classes[request["engine"]](**request["config"]) if request["config"] is not None else None
    sampling = lmdeploy.GenerationConfig(do_sample=False, max_new_tokens=64)
    began = time.perf_counter()
    pipe = lmdeploy.pipeline(request["model"], backend_config=config)
    load_s = time.perf_counter() - began
    calls = []

    def ask(question: Any, kind: str) -> None:  # noqa: ANN401 - a text, or a text with an image
        began = time.perf_counter()
        answer = pipe(question, gen_config=sampling)
        seconds = time.perf_counter() - began
        tokens = answer.generate_token_len
        calls.append({"kind": kind, "text": answer.text, "duration_s": seconds, "output_tokens": tokens})

    for prompt in request["prompts"]:
        ask(prompt, "cold")
        ask(prompt, "warm")
    if request.get("image"):
        from lmdeploy.vl import load_image

        for question in request["questions"]:
            ask((question, load_image(request["image"])), "image")
    sys.stdout.write("\n" + json.dumps({"load_s": load_s, "calls": calls}) + "\n")


if __name__ == "__main__":
    main()
