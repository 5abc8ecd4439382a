"""Prompts whose answers a model is calibrated on: everyday requests in English and Chinese.

Different in kind and length, so that the answers use much of what the model does: facts, explanations, lists,
stories, letters, sums, code, and translation. Kept apart from every prompt that the project measures with, so
that no model is scored on what it was calibrated on.
"""

ANSWER_TOKENS = 512
"""Where an answer is cut off."""
PROMPT_TOKENS = 128
"""The longest prompt with a chat template's system prompt, roughly."""

PROMPTS = (
    "What does a lighthouse do?",
    "Explain how rain forms.",
    "Write a short story about a cat that finds an old map.",
    "Write a Python function that counts the vowels in a string.",
    "List six vegetables and say how each one is cooked.",
    "Who invented the printing press, and why did it matter?",
    "Write a friendly letter to a neighbour who has just moved in.",
    "What is the difference between weather and climate?",
    "How do I change a flat tyre?",
    "Give me a recipe for tomato soup.",
    "A train travels 180 kilometres in two hours. How fast is it? Show your steps.",
    "What is a computer network?",
    "Translate into French: The library opens at nine.",
    "Describe a market in the early morning.",
    "What are the advantages and disadvantages of working from home?",
    "Explain gravity to a ten-year-old.",
    "Write a product description for a wooden pencil case.",
    "What is inflation?",
    "Summarise how a bill becomes a law.",
    "Give three ideas for a birthday party at home.",
    "How does a vaccine work?",
    "Write a dialogue between a baker and a customer.",
    "What is the purpose of a firewall?",
    "Name the planets of the solar system with one fact about each.",
    "Write an SQL query that finds the five largest orders of each customer, and explain it.",
    "Why do leaves change colour in autumn?",
    "Help me plan a day in a city that I have never visited.",
    "What makes a good leader?",
    "Correct the grammar: She don't has no time for reading yesterday.",
    "Explain the difference between a list and a tuple in Python.",
    "Write a haiku about the moon, and explain it.",
    "How can I sleep better?",
    "请介绍一下长城的历史。",
    "为什么天空是蓝色的？",
    "写一个关于小狗和老人的小故事。",
    "用 Python 写一个判断素数的函数，并解释它。",
    "请给出三条节约用水的建议。",
    "什么是人工智能？",
    "怎样做西红柿炒鸡蛋？",
    "请把这句话翻译成英文：今天下午我们去图书馆。",
    "写一封感谢老师的信。",
    "地球为什么有四季？",
    "请比较火车和飞机的优缺点。",
    "一件衣服原价二百元，打八折后是多少钱？请写出步骤。",
    "请用一段话描述春天的早晨。",
    "什么是通货膨胀？",
    "如何准备一次面试？",
    "介绍三位中国古代诗人。",
)
