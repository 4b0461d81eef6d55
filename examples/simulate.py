"""Texts and labels of yours, a federation of four, a PEFT adapter at the end.

python examples/simulate.py
"""

import fedlora

WISHES = ["please open a new {} {}", "i want to close my {} {}", "where can i find my {} {}"]
THINGS = ["account", "card", "profile", "login", "limit", "payment", "bill"]
ENDS = ["today", "thank you", "as soon as possible", "cheers", "what does it cost", "at last"]
texts = [wish.format(thing, end) for thing in THINGS for wish in WISHES for end in ENDS]
labels = [thing for thing in THINGS for _ in WISHES for _ in ENDS]

data = fedlora.from_lists(texts, labels)  # or a CSV's path, a datasets.Dataset, a name on the hub
run = fedlora.run(data=data, method="lora-a2", clients=4, rounds=5, epochs=3, lr=2e-3)  # base=... for another model
for record in run:
    print(record)  # `break` stops here; what was trained so far stays
print(run.history[["loss", "global_accuracy", "bytes_up"]])
print(run.predict("i want to close my account"))
run.save("my-adapter")
