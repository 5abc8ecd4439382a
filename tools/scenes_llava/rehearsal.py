"""Plain text to rehearse: what the untrained model itself answers, so that it stays able to chat."""

import torch
from torch import Tensor

from scenes_llava.examination import greedy
from scenes_llava.model import ScenesLlava
from scenes_llava.prompts import END_ID, Prompter, Turn
from scenes_llava.recipe import Recipe

PROMPTS = (
    "Hello!",
    "Who are you?",
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "Explain what a computer is.",
    "What is two plus two?",
    "Name three animals that live in water.",
    "How do I boil an egg?",
    "What is the largest planet?",
    "Tell me a short story about a dog.",
    "What does a doctor do?",
    "Give me three tips for sleeping well.",
    "What is the difference between a cat and a dog?",
    "Summarise the story of Romeo and Juliet.",
    "What is photosynthesis?",
    "Who was Albert Einstein?",
    "How does a bicycle work?",
    "What is a neural network?",
    "Write a sentence about winter.",
    "What are the seasons of the year?",
    "How many days are in a week?",
    "What is the opposite of hot?",
    "Explain gravity to a child.",
    "What is a healthy breakfast?",
    "Write a thank-you note to a teacher.",
    "What is the fastest land animal?",
    "Why do birds sing?",
    "What is an ocean?",
    "List the days of the week.",
    "How do plants grow?",
    "What is music?",
    "Give me an idea for a birthday present.",
    "What is the Earth made of?",
    "Write a Python function that adds two numbers.",
    "What is a prime number?",
    "How does the heart work?",
    "What is democracy?",
    "Tell me a joke.",
    "What is the meaning of the word brave?",
    "Describe a forest.",
    "What is a good way to learn a language?",
    "Who wrote Hamlet?",
    "What is the boiling point of water?",
    "How far away is the Moon?",
    "What is an atom?",
    "Why do we need sleep?",
    "Write a short e-mail to a friend.",
    "What is bread made of?",
    "What do bees do?",
    "What is electricity?",
    "Explain how rain forms.",
    "What is the internet?",
    "Name five fruits.",
    "What is the tallest mountain?",
    "What is history?",
    "How can I save money?",
    "What is a volcano?",
    "What is friendship?",
    "Describe your favourite place.",
    "What is a triangle?",
    "What colour do you get from blue and yellow?",
    "How many legs does a spider have?",
    "What is a star in the sky?",
)


def rehearsal(model: ScenesLlava, prompter: Prompter, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Ids and loss weights (prompts, tokens); to be called before the adapter has learnt anything."""
    asked = [prompter.tokens([]).ids + prompter.question_ids(Turn(0, text, "")) for text in _prompts(recipe)]
    answered = greedy(model, asked, None, most=recipe.rehearsed_tokens)
    rows = []
    for prompt, answer in zip(asked, answered, strict=True):
        end = [END_ID] if len(answer) < recipe.rehearsed_tokens else []
        rows.append((prompt + answer + end, [0.0] * len(prompt) + [1.0] * (len(answer) + len(end))))
    longest = max(len(ids) for ids, _ in rows)
    device = model.embeddings.device
    ids = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
    weights = torch.zeros((len(rows), longest), device=device)
    for row, (row_ids, row_weights) in enumerate(rows):
        ids[row, : len(row_ids)] = torch.tensor(row_ids, device=device)
        weights[row, : len(row_ids)] = torch.tensor(row_weights, device=device)
    return ids, weights


def _prompts(recipe: Recipe) -> tuple[str, ...]:
    return PROMPTS[: recipe.rehearsed_prompts]
