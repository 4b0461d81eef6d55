"""Your own texts and labels, a federation of four, a PEFT adapter at the end.

python examples/simulate.py
"""

import fedlora

WISHES = {"open": "please open a new {}", "close": "i want to close my {}", "find": "where can i find my {}"}
THINGS = ["account", "card", "savings account", "profile", "login", "debit card", "limit", "payment", "bill"]

texts = [wish.format(thing) for wish in WISHES.values() for thing in THINGS] * 8
labels = [label for label in WISHES for _ in THINGS] * 8

data = fedlora.from_lists(texts, labels, test_texts=texts[:27], test_labels=labels[:27])
run = fedlora.run(
    {
        "run": {"rounds": 30},
        "split": {"clients": 4, "alpha": 0.3},
        "adapter": {"rank": 2},
        "train": {"lr": 5e-3},
        "method": {"name": "lora-a2", "pool_rank": 8},
    },
    data,
)
for record in run:
    print(f"round {record.round}: loss {record.loss:.2f}, accuracy {record.global_metrics['accuracy']:.0%}")
    if record.global_metrics["accuracy"] > 0.9:
        break
run.save("my-adapter")
