"""Hands over to `transformers serve`, with one fix for GGUF files.

Run as a script by the engine's own Python, so it imports nothing of LMDyno.

`transformers serve` picks the model class by `config.architectures`, which a config read from a GGUF file
does not have (seen in 5.23: `TypeError: 'NoneType' object is not subscriptable`).
"""

import sys
from pathlib import Path
from typing import Any

# The folder of this script would come before every installed package.
sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]


def fill_in_architectures() -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    read_config = AutoConfig.from_pretrained

    def from_pretrained(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - transformers' own signature
        answer = read_config(*arguments, **options)
        config = answer[0] if options.get("return_unused_kwargs") else answer
        if options.get("gguf_file") and not config.architectures:
            config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        return answer

    AutoConfig.from_pretrained = from_pretrained


def main() -> None:
    from transformers.cli.transformers import main as transformers_main

    fill_in_architectures()
    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    transformers_main()


if __name__ == "__main__":
    main()
