"""Texts and labels of yours, a federation of four, a PEFT adapter at the end.

python examples/simulate.py
"""

import fedlora

WISHES = {"open": "please open a new {}", "close": "i want to close my {}", "find": "where can i find my {}"}
THINGS = ["account", "card", "savings account", "profile", "login", "debit card", "limit", "payment", "bill"]
texts = [wish.format(thing) for wish in WISHES.values() for thing in THINGS] * 8
labels = [label for label in WISHES for _ in THINGS] * 8

data = fedlora.from_lists(texts, labels)  # or a CSV's path, a datasets.Dataset, a name on the hub
run = fedlora.run(data=data, method="lora-a2", clients=4, rounds=5, lr=5e-3)  # base="..." for a model of yours
for record in run:
    print(record)  # `break` stops; whatever was trained so far stays
print(run.history[["loss", "global_accuracy", "bytes_up"]])
print(run.predict("i want to close my account"))
run.save("my-adapter")
